"""The kinds of task, how a function becomes one, and the built-in ``simulate``."""

import functools
from collections.abc import Callable, Generator
from enum import Enum
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, inlineCallbacks, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from asynctask.context import Context, Facts
from asynctask.model import Progress
from asynctask.registry import KINDS, PLACES, kinds_of, simulate, task

FACTS = Facts("task_17388800000002k4qz7m0a9x3c8v5t", "a", 2)


class Simulation:
    """A task of kind ``simulate`` under way, and what it has told."""

    def __init__(self, duration: int) -> None:
        self.clock = Clock()
        self.told: list[tuple[float, Progress]] = []
        context = Context(FACTS, self.clock, self._report)
        self.deferred: Deferred[Any] = simulate(duration, context=context)

    def _report(self, progress: Progress) -> None:
        self.told.append((self.clock.seconds(), progress))


class Simulate(SynchronousTestCase):
    """The built-in kind."""

    def test_it_runs_for_its_duration(self) -> None:
        simulation = Simulation(5)
        simulation.clock.pump([1, 1, 1, 1, 0.999])
        self.assertNoResult(simulation.deferred)
        simulation.clock.advance(0.001)
        self.assertIsNone(self.successResultOf(simulation.deferred))

    def test_it_tells_of_one_step_a_second(self) -> None:
        simulation = Simulation(3)
        simulation.clock.pump([0.5] * 6)
        self.assertEqual(
            simulation.told,
            [
                (1.0, Progress(1, 3)),
                (2.0, Progress(2, 3)),
                (3.0, Progress(3, 3)),
            ],
        )

    def test_nothing_to_do_is_done_at_once(self) -> None:
        simulation = Simulation(0)
        self.assertIsNone(self.successResultOf(simulation.deferred))
        self.assertEqual(simulation.told, [])
        self.assertEqual(simulation.clock.getDelayedCalls(), [])

    def test_a_cancel_ends_it_in_the_middle(self) -> None:
        simulation = Simulation(5)
        simulation.clock.pump([1, 1])
        simulation.deferred.cancel()
        self.failureResultOf(simulation.deferred, CancelledError)
        self.assertEqual(len(simulation.told), 2)
        self.assertEqual(simulation.clock.getDelayedCalls(), [])

    @given(st.integers(0, 30))
    def test_it_takes_as_long_as_it_says_that_it_will(self, duration: int) -> None:
        simulation = Simulation(duration)
        seconds = 0
        while not simulation.deferred.called:
            simulation.clock.advance(1)
            seconds += 1
        self.assertEqual(seconds, duration)
        self.assertEqual(KINDS["simulate"].seconds(f'{{"duration":{duration}}}'), duration)
        self.assertEqual(len(simulation.told), duration)


class Kinds(SynchronousTestCase):
    """What tasks there are."""

    def test_simulate_is_built_in(self) -> None:
        self.assertEqual([kind.name for kind in KINDS.values()], ["simulate"])
        self.assertEqual(list(KINDS), ["simulate"])

    def test_a_kind_gives_steps_that_wait_for_the_clock(self) -> None:
        clock = Clock()
        told: list[Progress] = []
        context = Context(FACTS, clock, told.append)
        steps = KINDS["simulate"].steps(context=context, duration=1)
        wait = steps.send(None)
        clock.advance(1)
        self.assertIsNone(self.successResultOf(wait))
        with self.assertRaises(StopIteration):
            steps.send(None)
        self.assertEqual(told, [Progress(1, 1)])


def plain(url: str) -> str:
    """Fetch it."""
    return url


async def coroutine() -> None: ...


@inlineCallbacks
def generator() -> Generator[Deferred[None], None, None]:
    yield Deferred()


class Marking(SynchronousTestCase):
    """A function becomes a handler."""

    def test_it_is_given_back_itself(self) -> None:
        for mark in (task, task(), task(retries=3, timeout=60, concurrency=2, place="thread")):

            def function() -> None: ...

            self.assertIs(mark(function), function)

    def test_without_settings_it_has_the_defaults(self) -> None:
        kind = kinds_of(task(plain))[-1]
        self.assertEqual((kind.name, kind.function, kind.description), ("plain", plain, "Fetch it."))
        self.assertEqual((kind.timeout, kind.retries), (None, 0))
        self.assertEqual((kind.concurrency, kind.backoff), (None, None))
        self.assertEqual(list(kind.input.schema["properties"]), ["url"])

    def test_its_settings_are_those_of_the_kind(self) -> None:
        def backoff(attempt: int) -> float:
            return attempt

        marked = task(
            retries=3, timeout=0.5, concurrency=2, place="process", backoff=backoff, name="make-it-small"
        )(plain)
        kind = kinds_of(marked)[-1]
        self.assertEqual((kind.name, kind.place), ("make-it-small", "process"))
        self.assertEqual((kind.timeout, kind.retries), (0.5, 3))
        self.assertEqual((kind.concurrency, kind.backoff), (2, backoff))

    def test_a_handler_needs_no_description(self) -> None:
        self.assertIsNone(kinds_of(task(coroutine))[-1].description)

    def test_a_function_that_waits_runs_on_the_reactor_and_another_in_a_thread(self) -> None:
        places = [kinds_of(task(function))[-1].place for function in (coroutine, generator, plain)]
        self.assertEqual(places, ["reactor", "reactor", "thread"])

    def test_each_place_can_be_asked_for(self) -> None:
        for place in PLACES:
            function: Callable[..., Any] = coroutine if place == "asyncio" else plain
            self.assertEqual(kinds_of(task(place=place)(function))[-1].place, place)

    def test_a_wrapped_function_is_what_its_wrapper_is(self) -> None:
        @functools.wraps(plain)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return plain(*args, **kwargs)

        kind = kinds_of(task(wrapper))[-1]
        self.assertEqual((kind.name, kind.place, kind.function), ("plain", "thread", wrapper))
        self.assertEqual(list(kind.input.schema["properties"]), ["url"])

    def test_a_decorator_around_inlineCallbacks_is_called(self) -> None:
        called: list[str] = []

        def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(function)
            def guard(*args: Any, **kwargs: Any) -> Any:
                called.append(function.__name__)
                return function(*args, **kwargs)

            return guard

        @inlineCallbacks
        def steps(one: int = 1) -> Generator[Deferred[None], None, int]:
            yield succeed(None)
            return one

        kind = kinds_of(task(guarded(steps)))[-1]
        self.assertEqual((kind.place, kind.is_stepped), ("reactor", False))
        self.assertEqual(self.successResultOf(kind.steps(one=2)), 2)
        self.assertEqual(called, ["steps"])
        self.assertTrue(kinds_of(task(steps))[-1].is_stepped)
        inner = kinds_of(task(inlineCallbacks(guarded(steps.__wrapped__))))[-1]  # type: ignore[attr-defined]
        self.assertEqual((inner.place, inner.is_stepped), ("reactor", True))

    def test_a_plain_function_around_a_generator_is_called(self) -> None:
        def numbers() -> Generator[int, None, None]:
            yield 1
            yield 2

        @functools.wraps(numbers)
        def listed() -> list[int]:
            return list(numbers())

        kind = kinds_of(task(listed))[-1]
        self.assertEqual((kind.place, kind.is_stepped, kind.function()), ("thread", False, [1, 2]))

    def test_a_plain_function_around_an_async_def_says_where_it_runs(self) -> None:
        @functools.wraps(coroutine)
        def wrapper() -> Any:
            return coroutine()

        error = self.assertRaises(ValueError, task, wrapper)
        self.assertEqual(
            str(error),
            "coroutine is an async def inside a plain decorator: say where it runs, with place=",
        )
        for place in ("reactor", "asyncio", "thread"):
            kind = kinds_of(task(place=place)(wrapper))[-1]
            self.assertEqual((kind.place, kind.is_stepped), (place, False))

    def test_an_object_is_what_its_call_is(self) -> None:
        class Plain:
            def __call__(self) -> None: ...

        class Waiting:
            async def __call__(self) -> None: ...

        for handler, place, is_stepped in ((Plain(), "thread", False), (Waiting(), "reactor", True)):
            [kind] = kinds_of(task(name="object")(handler))
            self.assertEqual((kind.place, kind.is_stepped, kind.function), (place, is_stepped, handler))
        [kind] = kinds_of(task(name="object", place="asyncio")(Waiting()))
        self.assertEqual(kind.place, "asyncio")

    def test_what_is_no_function_or_has_no_name_is_told(self) -> None:
        for other in (3, int, object()):
            marks: Any = other
            with self.assertRaisesRegex(TypeError, "task decorates a function, not"):
                task(marks)
        nameless = functools.partial(lambda _: None, 1)
        with self.assertRaisesRegex(ValueError, r"has no name: give it one with @task\(name=…\)"):
            task(nameless)
        with self.assertRaisesRegex(TypeError, "cannot be marked; mark a function that calls it, or a"):
            task([].append)
        self.assertEqual([kind.name for kind in kinds_of(task(name="named")(nameless))], ["named"])

    def test_one_function_may_be_several_kinds(self) -> None:
        def function() -> None: ...

        task(name="patient", retries=9)(task(name="hasty")(task(function)))
        kinds = {kind.name: kind for kind in kinds_of(function)}
        retries = {name: kind.retries for name, kind in kinds.items()}
        self.assertEqual(retries, {"function": 0, "hasty": 0, "patient": 9})
        self.assertEqual({kind.function for kind in kinds.values()}, {function})

    def test_who_marks_a_function_again_by_the_same_name_replaces_its_settings(self) -> None:
        def function() -> None: ...

        task(name="other")(task(retries=1)(function))
        found = [(kind.name, kind.retries) for kind in kinds_of(task(retries=2)(function))]
        self.assertEqual(found, [("other", 0), ("function", 2)])

    def test_what_is_put_around_a_handler_is_not_its_kind(self) -> None:
        @task(name="inner", retries=3)
        def function() -> None: ...

        @task(name="outer")
        @functools.wraps(function)
        def wrapper() -> None: ...

        self.assertEqual([kind.name for kind in kinds_of(wrapper)], ["outer"])
        self.assertEqual([kind.name for kind in kinds_of(function)], ["inner"])

    def test_settings_at_their_limits_are_taken(self) -> None:
        for settings in ({"retries": 100}, {"timeout": 1e-9}, {"concurrency": 1}, {"name": "n" * 255}):
            task(**settings)(plain)
            for name, value in settings.items():
                self.assertEqual(getattr(kinds_of(plain)[-1], name), value)

    def test_the_name_of_a_kind_may_be_a_member_of_an_enumeration(self) -> None:
        class Names(str, Enum):  # noqa: UP042  # a StrEnum's members are written as their values
            SMALL = "make-it-small"

        [kind] = kinds_of(task(name=Names.SMALL)(functools.partial(plain)))
        self.assertEqual(f"{kind.name}", "make-it-small")

    def test_what_a_docstring_says_can_be_sent(self) -> None:
        def handler() -> None: ...

        handler.__doc__ = "Odd \ud800."
        [kind] = kinds_of(task(handler))
        self.assertEqual(kind.description, "Odd ?.")

    def test_settings_that_nobody_can_have_are_refused_where_they_are_written(self) -> None:
        wrong: list[tuple[str, object]] = [
            *(("retries", value) for value in (-1, 101, 1.5, "3", None, True)),
            *(("timeout", value) for value in (0, -1, float("nan"), float("inf"), "60", True)),
            *(("concurrency", value) for value in (0, -1, 1.5, "2", True)),
            *(("place", value) for value in ("moon", "", "Thread", 3)),
            *(("backoff", value) for value in (3, "linear", lambda: 1, divmod)),
            *(("name", value) for value in ("", "n" * 256, 5, b"n", "a\0", "\ud800")),
        ]
        for name, value in wrong:
            error = self.assertRaises(ValueError, task, **{name: value})
            self.assertTrue(str(error).startswith(f"{name} is "), error)
            self.assertIn(repr(value), str(error))
