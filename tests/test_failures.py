"""Attempts that fail, those that come after them, and results."""

import asyncio
import pickle
from collections.abc import Generator
from copy import copy
from datetime import timedelta
from typing import Any

from msgspec import ValidationError
from twisted.internet.defer import Deferred, FirstError, fail, gatherResults, inlineCallbacks
from twisted.internet.task import deferLater

from asynctask import loop as asyncio_loop
from asynctask import threads
from asynctask.attempts import SHORTAGE
from asynctask.context import Context, Permanent, Retry
from asynctask.model import (
    ACCEPTED,
    COMPLETED,
    FAILED,
    LONGEST_BACKOFF,
    RETRYING,
    RUNNING,
)
from asynctask.runner import SOON
from asynctask.steps import WrongPlaceError
from asynctask.wire import MAX_RESULT, NotSerializable, ResultTooLarge
from tests.running import START, EndsTestCase


class Later(Retry):
    """One with an ``__init__`` of its own."""

    def __init__(self, hours: int) -> None:
        super().__init__("later", after=hours * 3_600)
        self.hours = hours


class Silent(Exception):
    """Has no text to show."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Homeless(Exception):
    """Of no module."""

    __module__ = None  # type: ignore[assignment]


class Looking(type):
    """Lets nobody look at its classes."""

    def __getattribute__(cls, name: str) -> Any:
        if name == "__module__":
            raise RuntimeError("do not look")
        return super().__getattribute__(name)


class Looked(Exception, metaclass=Looking):
    """Of a class that fails."""


class Classless(Exception):
    """Does not even say of which class it is."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("do not look")


class Text(str):
    """Cannot be cut."""

    __slots__ = ()

    def __getitem__(self, _: Any) -> str:
        raise RuntimeError("not to be cut")


class Split(Exception):
    """Its text is of a class of its own."""

    def __str__(self) -> str:
        return Text("no")


class Failures(EndsTestCase):
    """An attempt that fails, and those that come after it."""

    def test_without_retries_the_first_failure_is_the_last(self) -> None:
        self.with_failing(ValueError("no"))
        task_id = self.submit(None)
        self.assertEqual(self.outcome(task_id), (FAILED, "ValueError", 1))
        self.assertEqual(self.free, 100)
        self.fails(ValueError)

    def test_retries_come_after_longer_and_longer_waits_until_they_are_used_up(self) -> None:
        self.with_failing(ValueError("no"))
        task_id = self.submit(None, retries=2)
        for attempt, wait in ((2, 2), (3, 4)):
            task = self.get(task_id)
            self.assertEqual((task.status, task.run_at - self.now()), (RETRYING, wait))
            self.assertEqual(self.free, 100)
            self.advance(wait)
            self.assertEqual(self.get(task_id).attempt, attempt)
        self.assertEqual(self.outcome(task_id), (FAILED, "ValueError", 3))
        for event in self.logged("Task retrying"):
            self.assertRegex(event["place"], r"running\.py:\d+$")
        self.assertEqual(len(self.logged("Task retrying")), 2)
        self.fails(ValueError)

    def test_a_wait_is_drawn_between_nothing_and_its_longest(self) -> None:
        self.with_failing(ValueError("no"))
        for self.chance in (0.01, 0.999):
            task_id = self.submit(None, retries=100)
            for attempt in range(2, 16):
                task = self.get(task_id)
                longest = min(2.0**attempt, LONGEST_BACKOFF)
                self.assertEqual((task.status, task.attempt), (RETRYING, attempt - 1))
                self.assertAlmostEqual(task.run_at - self.now(), self.chance * longest, 3)
                self.clock.advance(task.run_at - self.now() + 0.001)
                self.settle()

    def test_a_retry_waits_on_disk(self) -> None:
        self.with_failing(ValueError("no"))
        task_id = self.submit(None, retries=1)
        self.store._database.owner = "another"
        self.make(kinds={"simulate": self.kind})
        self.runner.start()
        self.settle()
        self.assertEqual(self.outcome(task_id), (RETRYING, "ValueError", 1))
        self.advance(2)
        self.assertEqual(self.outcome(task_id), (FAILED, "ValueError", 2))
        self.fails(ValueError)

    def test_the_second_attempt_may_succeed(self) -> None:
        attempts: list[int] = []

        async def handler(context: Context) -> str:
            attempts.append(context.attempt)
            if context.attempt == 1:
                raise ValueError("not yet")
            return "done"

        self.with_handler(handler)
        task_id = self.submit(None, retries=5)
        self.advance(2)
        task = self.get(task_id)
        self.assertEqual((task.status, task.result, task.error), (COMPLETED, '"done"', None))
        self.assertEqual(attempts, [1, 2])

    def test_a_handler_may_say_how_long_to_wait(self) -> None:
        numbers: list[int] = []

        def backoff(attempt: int) -> float:
            numbers.append(attempt)
            return attempt / 2

        self.with_failing(ValueError("no"), backoff=backoff)
        task_id = self.submit(None, retries=9)
        self.assertEqual(self.get(task_id).run_at, START + 1)
        self.advance(1)
        self.assertEqual(self.get(task_id).run_at, START + 1 + 1.5)
        self.assertEqual(numbers, [2, 3])

    def test_a_failure_may_say_when_it_is_worth_another_try(self) -> None:
        class Busy(Retry):
            """Another service has too much to do."""

            after = 7.0

            def __init__(self) -> None:
                Exception.__init__(self, "come again")

        for error, waits in ((Retry("429", after=30), 30), (Busy(), 7), (Retry(after=-1), 0)):
            self.with_failing(error, backoff=lambda _: 1_000)
            task_id = self.submit(None, retries=1)
            if waits:
                self.assertEqual(self.get(task_id).run_at, START + waits)
            else:
                self.assertEqual(self.outcome(task_id), (FAILED, "Retry", 2))
        self.fails(Retry)
        self.assertRaises(TypeError, Retry, after=timedelta(seconds=1))  # in the line that is to blame
        for copied in (copy(Retry("429", after=30)), pickle.loads(pickle.dumps(Retry("429", after=30)))):
            self.assertEqual((copied.after, copied.args), (30.0, ("429",)))
        own = copy(Later(12))  # whose ``__init__`` takes something else
        self.assertEqual((own.after, own.args, own.hours), (43_200.0, ("later",), 12))

    def test_the_error_of_an_earlier_attempt_is_not_told_as_raised_now(self) -> None:
        """When a stop cuts the next one off."""
        waits: Deferred[None] = Deferred()

        async def handler(*, context: Context) -> None:
            if context.attempt == 1:
                raise ValueError("no")
            await waits

        self.with_handler(handler)
        self.submit(None, retries=5)
        self.advance(2)
        self.runner.drain(0)
        self.advance(int(SOON))
        places = [event.get("place") for event in self.logged("Task retrying")]
        self.assertEqual((len(places), places[-1]), (2, None))

    def test_a_wait_that_nobody_can_wait_is_made_to_fit(self) -> None:
        year = 365 * 86_400
        for wrong, waits in ((-5, 0), (10**9, year), (float("inf"), year)):
            self.with_failing(ValueError("no"), backoff=lambda _, wrong=wrong: wrong)
            task_id = self.submit(None, retries=1)
            # The first of them is due at once, and makes its second attempt.
            if waits:
                self.assertEqual(self.get(task_id).run_at, START + waits)
            else:
                self.assertEqual(self.outcome(task_id), (FAILED, "ValueError", 2))
        self.fails(ValueError)

    def test_a_backoff_that_fails_is_replaced_by_ours(self) -> None:
        for wrong in (lambda _: 1 / 0, lambda _: None):
            self.with_failing(ValueError("no"), backoff=wrong)
            self.assertEqual(self.get(self.submit(None, retries=1)).run_at, START + 2)
        self.fails(ZeroDivisionError)
        self.fails(TypeError)

    def test_a_permanent_failure_is_not_tried_again(self) -> None:
        class Gone(Permanent):
            """The page is no more."""

        self.with_failing(Gone("410"))
        task_id = self.submit(None, retries=5)
        self.assertEqual(self.outcome(task_id), (FAILED, "Gone", 1))
        self.fails(Gone)

    def test_of_several_that_fail_together_one_says_how_to_go_on(self) -> None:
        inner = ExceptionGroup("inner", [Retry("busy", after=7)])
        for others, status, told in (
            ([ValueError("first"), KeyError("second")], RETRYING, "ValueError: first"),
            ([ValueError("first"), Permanent("gone"), inner], FAILED, "Permanent: gone"),
            ([ValueError("first"), inner], RETRYING, "Retry: busy"),
        ):
            self.with_failing(ExceptionGroup("all", others), backoff=lambda _: 3)
            task = self.get(self.submit(None, retries=5))
            self.assertEqual(task.status, status)
            assert task.error is not None
            self.assertEqual(task.error.type, "ExceptionGroup")
            self.assertRegex(task.error.message, rf"all \(\d sub-exceptions\): {told}$")
            if status == RETRYING:
                self.assertEqual(task.run_at, START + (7 if "busy" in told else 3))
        self.fails(ExceptionGroup)

    def test_what_fails_in_gather_results_is_asked_too(self) -> None:
        async def handler() -> None:
            await gatherResults([fail(Permanent("gone"))], consumeErrors=True)

        self.with_handler(handler)
        self.assertEqual(self.outcome(self.submit(None, retries=5)), (FAILED, "FirstError", 1))
        self.fails(FirstError)

    def test_a_failure_without_text_is_told_by_its_name(self) -> None:
        self.with_failing(Silent())
        task_id = self.submit(None)
        self.assertEqual(self.outcome(task_id), (FAILED, "Silent", 1))
        self.fails(Silent)

    def test_one_whose_class_has_code_that_fails_ends_its_attempt_all_the_same(self) -> None:
        for raised in (Homeless, Looked, Split, Classless):
            for place, seats in (("reactor", 100), ("thread", 2)):

                def handler(raised: Any = raised) -> None:
                    raise raised("no")

                handler.__annotations__.clear()
                self.with_handler(handler, place=place)
                task_id = self.submit(None)
                while self.status(task_id) == RUNNING:
                    self.settle()
                self.assertEqual((self.status(task_id), self.free), (FAILED, seats))
                told = self.get(task_id).error
                assert told is not None
                self.assertIn(told.type, ("UntoldError", raised.__name__))
                self.assertIn(raised.__name__ if told.type == "UntoldError" else "no", told.message)
                self.flushLoggedErrors()

    def test_for_want_of_a_thread_or_process_an_attempt_is_made_later_and_no_retry_is_used(self) -> None:
        def no_more(**_: object) -> None:
            raise RuntimeError("can't start new thread")

        def plain() -> str:
            return "done"

        async def on_loop() -> str:
            return "done"

        for place, handler, module in (("thread", plain, threads), ("asyncio", on_loop, asyncio_loop)):
            self.with_handler(handler, place=place)
            patched = self.patch(module, "Thread", no_more)
            task_id = self.submit(None)
            patched.restore()
            task = self.get(task_id)
            self.assertEqual((task.status, task.failures, task.error), (RETRYING, 0, None), place)
            self.assertEqual(task.run_at, self.now() + SHORTAGE)
            self.assertEqual(self.free, 2)
            self.advance(int(SHORTAGE))
            self.until_logged("Task completed")
            self.assertEqual(self.outcome(task_id), (COMPLETED, None, 2), place)
            (told,) = self.logged("Task cannot be started now")
            self.assertEqual((told["task_id"], told["error"]), (task_id, "can't start new thread"))
            self.events.clear()

    def test_what_ends_a_program_ends_only_its_attempt(self) -> None:
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):
            self.with_failing(error)
            task_id = self.submit(None, retries=1)
            self.assertEqual(self.outcome(task_id), (RETRYING, type(error).__name__, 1))
            self.advance(2)
            self.assertEqual(self.outcome(task_id), (FAILED, type(error).__name__, 2))
            self.assertEqual(self.free, 100)
            self.fails(type(error))

    def test_what_ends_a_program_ends_only_its_attempt_after_a_wait_and_in_a_generator(self) -> None:
        for error in (SystemExit(3), KeyboardInterrupt(), GeneratorExit()):

            @inlineCallbacks
            def handler(error: Any = error) -> Generator[Deferred[None], None, None]:
                yield deferLater(self.clock, 1)
                raise error

            handler.__annotations__.clear()
            self.with_handler(handler)
            task_id = self.submit(None)
            self.advance(1)
            self.assertEqual(self.outcome(task_id), (FAILED, type(error).__name__, 1))
            self.fails(type(error))

    def test_asyncio_code_on_the_reactor_is_told_where_it_belongs(self) -> None:
        async def sleeping() -> None:
            await asyncio.sleep(1)

        async def waiting() -> None:
            await loop.create_future()

        async def stopping() -> None:
            await asyncio.Event().wait()

        loop = asyncio.new_event_loop()
        self.addCleanup(loop.close)

        for handler in (sleeping, waiting, stopping):
            self.with_handler(handler)
            error = self.get(self.submit(None)).error
            assert error is not None
            self.assertEqual(error.type, "WrongPlaceError")
            self.assertIn('@task(place="asyncio")', error.message)
        self.fails(WrongPlaceError, 3)

    def test_a_deferred_on_the_asyncio_loop_is_told_where_it_belongs(self) -> None:
        async def handler() -> None:
            await Deferred()

        self.with_handler(handler, place="asyncio")
        error = self.until_ended(self.submit(None)).error
        assert error is not None
        self.assertEqual(error.type, "WrongPlaceError")
        self.assertIn('@task(place="reactor")', error.message)
        self.fails(WrongPlaceError)

    def test_asyncio_code_runs_where_it_belongs(self) -> None:
        async def handler() -> str:
            await asyncio.sleep(0)
            return "done"

        self.with_handler(handler, place="asyncio")
        self.assertEqual(self.until_ended(self.submit(None)).result, '"done"')

    def test_a_plain_function_may_run_on_the_reactor(self) -> None:
        for outcome in ("done", Deferred[str]()):
            self.with_handler(lambda outcome=outcome: outcome, place="reactor")
            task_id = self.submit(None)
            if isinstance(outcome, Deferred):
                self.assertEqual(self.status(task_id), RUNNING)
                outcome.callback("done")
                self.settle()
            self.assertEqual((self.status(task_id), self.get(task_id).result), (COMPLETED, '"done"'))

    def test_a_retry_by_hand_begins_anew(self) -> None:
        self.with_failing(ValueError("no"))
        task_id = self.submit(None, retries=1)
        self.advance(2)
        self.assertEqual(self.outcome(task_id), (FAILED, "ValueError", 2))
        again = self.retry(task_id)
        self.assertEqual((again.status, again.error, again.finished_at), (ACCEPTED, None, None))
        self.assertEqual(self.outcome(task_id), (RETRYING, "ValueError", 3))
        self.advance(8)
        self.assertEqual(self.outcome(task_id), (FAILED, "ValueError", 4))
        self.fails(ValueError, 2)

    def test_an_input_that_fits_the_handler_no_more_fails_its_task(self) -> None:
        async def handler(seconds: int = 3) -> None: ...

        self.with_handler(handler)
        task_id = self.submit(duration=3)
        error = self.get(task_id).error
        assert error is not None
        self.assertEqual((error.type, error.message), ("ValidationError", "Unknown field 'duration'"))
        self.fails(ValidationError)

    def test_the_history_has_every_change(self) -> None:
        self.with_failing(ValueError("no"))
        task_id = self.submit(None, retries=1)
        self.advance(2)
        history = self.get(task_id).history
        assert history is not None
        for entry in ('"accepted","attempt":0', '"running","attempt":1', '"retrying","attempt":1'):
            self.assertIn(entry, history)
        self.assertTrue(history.index('"running","attempt":2') < history.index('"failed","attempt":2'))
        self.fails(ValueError)


class Results(EndsTestCase):
    """What a handler returns."""

    def returned(self, result: object) -> str:
        async def handler() -> object:
            return result

        self.with_handler(handler)
        return self.submit(None)

    def test_a_result_is_json(self) -> None:
        for result, text in (({"pages": [1, 2.5, None]}, '{"pages":[1,2.5,null]}'), ("ä\0", '"ä\\u0000"')):
            task = self.get(self.returned(result))
            self.assertEqual((task.status, task.result), (COMPLETED, text))

    def test_what_is_no_json_fails_its_task_and_says_why(self) -> None:
        cyclic: list[object] = []
        cyclic.append(cyclic)
        deep: object = 0
        for _ in range(65):
            deep = [deep]
        wrong = {
            "set": ({1}, "set is not JSON serializable"),
            "bytes": (b"x", "bytes is not JSON serializable"),
            "cyclic": (cyclic, "Circular reference"),
            "NaN": ([float("nan")], "not JSON compliant"),
            "infinity": ({"x": float("-inf")}, "not JSON compliant"),
            "surrogate": ("\ud800", "surrogates not allowed"),
            "a surrogate in a key": ({"\udfff": 1}, "surrogates not allowed"),
            "a key twice": ({1: "one", "1": "one"}, "Key '1' is in one object twice"),
            "deep": (deep, "nested deeper than 64"),
            "too large a number": (10**400, "beyond a double"),
            "a Deferred in a list": ([Deferred()], "Deferred is not JSON serializable"),
        }
        for what, (result, why) in wrong.items():
            task = self.get(self.returned(result))
            assert task.error is not None, what
            self.assertEqual((task.status, task.error.type), (FAILED, "NotSerializable"), what)
            self.assertIn(why, task.error.message)
            self.assertIsNone(task.result)
            self.assertEqual(self.free, 100)
        self.fails(NotSerializable, len(wrong))

    def test_a_result_has_at_most_a_mebibyte(self) -> None:
        self.assertEqual(self.status(self.returned("x" * (MAX_RESULT - 2))), COMPLETED)
        for too_large in ("x" * (MAX_RESULT - 1), "ä" * (MAX_RESULT // 2)):
            task_id = self.returned(too_large)
            self.assertEqual(self.outcome(task_id), (FAILED, "ResultTooLarge", 1))
            self.assertIsNone(self.get(task_id).result)
        self.fails(ResultTooLarge, 2)

    def test_a_result_that_cannot_be_stored_is_a_failure_that_is_retried(self) -> None:
        async def handler() -> Any:
            return {1}

        self.with_handler(handler)
        task_id = self.submit(None, retries=1)
        self.advance(4)
        self.assertEqual(self.outcome(task_id), (FAILED, "NotSerializable", 2))
        self.fails(NotSerializable)
