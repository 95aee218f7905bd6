"""Tracebacks: told whole where they are told, and let go of after that."""

import sys
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Final, TypeVar

from twisted.internet.defer import FirstError
from twisted.python.failure import Failure

from asynctask import wire
from asynctask.wire import name_of

MAX_TRACEBACK: Final = 20_000
"""Characters that are kept of a traceback."""

MAX_CAUSES: Final = 100
"""Exceptions that are followed from one to the one that it came from: they may go in a circle."""

E = TypeVar("E", bound=BaseException)


class UntoldError(Exception):
    """Told in place of an exception whose class raises another one when it is looked at.

    :param name: of that class.
    """

    def __str__(self) -> str:
        return f"{self.args[0]} was raised, and cannot be told: its class has code of its own that fails"


def caught() -> Failure:
    """The failure of the exception that is being handled, which somebody else's code has raised."""
    raised = sys.exception()
    try:
        return Failure()
    except BaseException:  # of its class, at which a Failure looks
        return Failure(UntoldError(name_of(raised)))


def stack_of(failure: Failure) -> str:
    """Where an exception was raised, with what it was raised from, its notes, and all of a group."""
    error: BaseException = failure.value  # type: ignore[assignment]
    told = ""
    with suppress(BaseException):  # an exception may have any code of its own
        if _has_more(error):
            told = "".join(traceback.format_exception(type(error), error, failure.getTracebackObject()))
    # What a Failure tells by itself takes a tenth of the time.
    return shortened(told or failure.getTraceback())


def raised_at(failure: Failure) -> str:
    """The file and the line where an exception was raised, nothing if that is not known; of several that
    were raised together, the first.

    One that comes from another process has it as its own ``place``.
    """
    place: str = getattr(failure, "place", "")
    if not place and failure.value is not None:
        place = place_of(decisive(failure.value))
    return place or last_line(failure.getTracebackObject())


def place_of(error: BaseException) -> str:
    """The file and the line where an exception was raised; nothing if it never was, or has no frames."""
    return last_line(BaseException.__getattribute__(error, "__traceback__"))


def decisive(error: BaseException, *kinds: type[BaseException]) -> BaseException:
    """Of exceptions that were raised together, as in a group or in what `gatherResults` makes of one, the
    first of the first of these kinds, otherwise the first; any other is that itself."""
    found: list[BaseException] = []
    left = [error]
    while left:
        one = left.pop()
        # By their types, since it may have any code of its own.
        if issubclass(type(one), BaseExceptionGroup):
            left += reversed(BaseExceptionGroup.exceptions.__get__(one))
        elif type(one) is FirstError and one.subFailure.value is not None:
            left.append(one.subFailure.value)
        else:
            found.append(one)
    return next((one for kind in kinds for one in found if issubclass(type(one), kind)), found[0])


def full_text_of(error: BaseException | None, *kinds: type[BaseException]) -> str:
    """An exception's text; of several that were raised together, also that of the `decisive` one."""
    text = wire.text_of(error)
    if error is None or not issubclass(type(error), BaseExceptionGroup):
        return text
    one = decisive(error, *kinds)
    return f"{text}: {name_of(one)}: {wire.text_of(one)}"


def last_line(trace: TracebackType | None) -> str:
    """The file and the line of the last frame."""
    place = ""
    for frame, line in traceback.walk_tb(trace):
        place = f"{frame.f_code.co_filename}:{line}"
    return place


def _has_more(error: BaseException) -> bool:
    """Whether there is something that a Failure would leave out."""
    came_from = error.__context__ is not None and not error.__suppress_context__
    has_notes = hasattr(error, "__notes__")
    return came_from or has_notes or error.__cause__ is not None or isinstance(error, BaseExceptionGroup)


def shortened(stack: str) -> str:
    """Without the middle, where it is long: where it was raised is at one end, what was at the other."""
    half = MAX_TRACEBACK // 2
    return stack if len(stack) <= MAX_TRACEBACK else f"{stack[:half]}\n…\n{stack[-half:]}"


def thrown(failure: Failure) -> BaseException:
    """The error of a failure, to be thrown where it was waited for, with where it was raised."""
    error: BaseException = failure.value  # type: ignore[assignment]
    return BaseException.with_traceback(error, failure.tb)


def let_go(failure: Failure) -> None:
    """Let it have no frames, see `without_frames`."""
    if failure.value is not None:
        without_frames(failure.value)
    with suppress(BaseException):
        failure.cleanFailure()


def without_frames(error: E) -> E:
    """The same exception without its frames, and without those of the exceptions that it came from.

    Most frames hold it in their turn, and all that would stay until the collector comes.
    """
    left: list[BaseException | None] = [error]
    with suppress(BaseException):  # it may have any code of its own
        for _ in range(MAX_CAUSES):
            if not left:
                break
            if (one := left.pop()) is None:
                continue
            BaseException.with_traceback(one, None)
            if issubclass(type(one), BaseExceptionGroup):
                left += BaseExceptionGroup.exceptions.__get__(one)
            left.append(one.__context__ if one.__cause__ is None else one.__cause__)
    return error
