"""Tracebacks: let go of, whatever an exception is made of. What is told of them is in `tests.test_logs`."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from asynctask.tracebacks import decisive, let_go, raised_at, stack_of, thrown, without_frames


@dataclass(frozen=True)
class Frozen(Exception):
    """Takes no attribute, not even Python's own."""

    why: str


class Wild(Exception):
    """Has code of its own wherever it can."""

    def __bool__(self) -> bool:
        raise SystemExit

    def with_traceback(self, _trace: Any) -> Any:
        raise SystemExit

    def __str__(self) -> str:
        raise SystemExit

    @property
    def __notes__(self) -> Any:  # type: ignore[override]
        raise SystemExit


class Wilder(Wild):
    """Does not even tell what it came from."""

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise SystemExit


class Held:
    """Something in a frame."""


def failure_of(raising: Callable[[], object], holds: list[Any]) -> Failure:
    """A failure of which a frame holds something, and the exception."""
    held = Held()
    holds.append(ref(held))
    try:
        raising()
    except BaseException as error:
        held.error = error  # type: ignore[attr-defined]
        return Failure()
    raise AssertionError


def raising(error: BaseException, cause: BaseException | None = None) -> Callable[[], object]:
    def fail() -> None:
        raise error from cause

    return fail


class LettingGo(SynchronousTestCase):
    """Nothing is held by an exception that was told."""

    def setUp(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)

    def test_frames_are_let_go_of(self) -> None:
        holds: list[Any] = []
        inner = failure_of(raising(KeyError("inner")), holds).value
        for error in (ValueError("no"), Frozen("no"), Wild("no")):
            failure = failure_of(raising(error, inner), holds)
            let_go(failure)
            self.assertIsNone(BaseException.__getattribute__(error, "__traceback__"))
            del failure, error
        del inner
        self.assertEqual([one() for one in holds], [None] * 4)

    def test_no_code_of_an_exception_s_own_comes_out(self) -> None:
        for error in (Wild("no"), Wilder("no")):
            failure = failure_of(raising(error), [])
            stack_of(failure)
            let_go(failure)
            self.assertIs(without_frames(error), error)

    def test_of_a_group_the_first_tells_where(self) -> None:
        inner = failure_of(raising(KeyError("inner")), []).value
        assert inner is not None
        group = BaseExceptionGroup("all", [BaseExceptionGroup("some", [inner]), Wild("no")])
        failure = failure_of(raising(group), [])
        self.assertIs(decisive(group), inner)
        self.assertEqual(raised_at(failure), raised_at(Failure(inner)))
        self.assertIsInstance(decisive(group, SystemExit, Wild), Wild)

    def test_an_error_is_thrown_as_it_is_with_its_frames_or_without(self) -> None:
        failure = failure_of(raising(ValueError("no")), [])
        raised = failure.getTracebackObject()
        self.assertIs(thrown(failure), failure.value)
        self.assertIs(thrown(failure).__traceback__, raised)
        failure.cleanFailure()
        self.assertIs(thrown(failure), failure.value)
        self.assertIsNone(thrown(failure).__traceback__)

    def test_those_of_a_group_lose_their_frames_too(self) -> None:
        errors: list[Exception] = []
        for why in ("one", "other", "its cause"):
            try:
                raise ValueError(why)
            except ValueError as error:
                errors.append(error)
        one, other, cause = errors
        other.__cause__ = cause
        without_frames(ExceptionGroup("all", [one, ExceptionGroup("some", [other])]))
        self.assertEqual([error.__traceback__ for error in errors], [None] * 3)

    def test_those_that_came_from_each_other_have_an_end(self) -> None:
        one, other = ValueError("one"), ValueError("other")
        one.__cause__, other.__cause__ = other, one
        self.assertIs(without_frames(one), one)
