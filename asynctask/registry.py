"""The kinds of task that there are: how a function becomes one, and `simulate`."""

import inspect
import pickle
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from math import isfinite
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, overload

from msgspec import Meta, Struct, json
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import deferLater

from asynctask.context import Context
from asynctask.inputs import Input, UnusableError, called, read_signature
from asynctask.wire import LABEL, MAX_NAME, in_a_line

Where = Literal["reactor", "thread", "asyncio", "process"]
PLACES: Final = get_args(Where)

MAX_RETRIES: Final = 100

STEP: Final = 1.0
"""Seconds between two steps of `simulate`."""

DURATION: Final = 3
"""Seconds that `simulate` runs where nothing is said."""

MAX_DURATION: Final = 86_400

_INLINE_CALLBACKS: Final = getattr(inlineCallbacks(lambda: (yield Deferred())), "__code__", None)
"""By which it is known what Twisted has made of a generator function."""


class Mark(NamedTuple):
    """A kind that `task` was asked for, and where its function is written."""

    kind: str
    function: str
    line: int


MARKED: Final[defaultdict[str, set[Mark]]] = defaultdict(set)
"""By module, what was marked since the last import of a module with handlers began."""

F = TypeVar("F", bound=Callable[..., Any])
Backoff = Callable[[int], float]


class RegistryError(Exception):
    """A handler cannot be used; the message is one sentence that names it."""


class Settings(Struct, frozen=True):
    """What `task` was told of a function."""

    name: str
    place: str
    retries: int
    timeout: float | None
    concurrency: int | None
    concurrency_total: int | None
    backoff: Backoff | None


class Kind(Struct, frozen=True):
    """What a task of one kind runs.

    :ivar timeout: seconds that one attempt may take, unless the task says otherwise.
    :ivar retries: further attempts after failed ones, unless the task says otherwise.
    :ivar concurrency: attempts at once in this process; None for as many as the place has seats.
    :ivar concurrency_total: attempts at once in all processes that share the store; None for no limit.
    :ivar backoff: seconds before the attempt of a number, from 2; None for exponential with jitter.
    :ivar steps: gives the generator or coroutine of one attempt, where the place is a loop;
        ``is_stepped`` says whether it does, or is a plain function.
    """

    name: str
    function: Callable[..., Any]
    place: str
    input: Input
    description: str | None
    timeout: float | None
    retries: int
    concurrency: int | None
    concurrency_total: int | None
    backoff: Backoff | None
    steps: Callable[..., Any]
    is_stepped: bool

    def seconds(self, given: str) -> float | None:
        """How long an attempt with this input, JSON text, takes, where that can be told."""
        return json.decode(given, type=_Simulated).duration if self.function is simulate else None


class _Simulated(Struct, gc=False):
    duration: float


def kind_json(kind: Kind) -> dict[str, Any]:
    """A kind as clients see it."""
    return {
        "kind": kind.name,
        "description": kind.description,
        "place": kind.place,
        "input": kind.input.schema,
        "timeout": kind.timeout,
        "retries": kind.retries,
        "concurrency": kind.concurrency,
        "next_run": None,
    }


@overload
def task(function: F, /) -> F: ...


@overload
def task(
    *,
    retries: int = 0,
    timeout: float | None = None,
    concurrency: int | None = None,
    concurrency_total: int | None = None,
    place: Where | None = None,
    backoff: Backoff | None = None,
    name: str | None = None,
) -> Callable[[F], F]: ...


def task(
    function: F | None = None,
    /,
    *,
    retries: int = 0,
    timeout: float | None = None,
    concurrency: int | None = None,
    concurrency_total: int | None = None,
    place: Where | None = None,
    backoff: Backoff | None = None,
    name: str | None = None,
) -> F | Callable[[F], F]:
    """Make a function a handler; gives the function itself back.

    :param retries: further attempts after failed ones, 0 to 100.
    :param timeout: seconds that one attempt may take; None for no limit.
    :param concurrency: attempts at once in one process; None for no limit of its own.
    :param concurrency_total: attempts at once in all processes that share a store; None for no limit.
    :param place: where it runs: ``reactor`` (the default of ``async def`` and inlineCallbacks
        functions), ``thread`` (the default of plain functions), ``asyncio`` or ``process``.
    :param backoff: seconds before the attempt of a number, from 2; the default is exponential with
        full jitter, up to an hour.
    :param name: the kind's name; the function's is the default.
    :raises ValueError: a value that it cannot have, or no name.
    :raises TypeError: it is no function.
    """
    _check_settings(retries, timeout, place, backoff, name)
    _check_limits(concurrency=concurrency, concurrency_total=concurrency_total)

    def mark(marked: F) -> F:
        if not callable(marked) or isinstance(marked, type):
            raise TypeError(f"task decorates a function, not {marked!r}")
        if name is None and not hasattr(marked, "__name__"):
            raise ValueError(f"{marked!r} has no name: give it one with @task(name=…)")
        settings = Settings(
            name=str.__str__(name or marked.__name__),  # of an enumeration's member it is the value
            place=place or _place_of(marked),
            retries=retries,
            timeout=timeout,
            concurrency=concurrency,
            concurrency_total=concurrency_total,
            backoff=backoff,
        )
        others = [one for one in _marks(marked) if one.name != settings.name]
        try:
            marked.__asynctask__ = (*others, settings)  # type: ignore[attr-defined]
        except AttributeError:
            raise TypeError(
                f"{marked!r} cannot be marked; mark a function that calls it, or a functools.partial of it"
            ) from None
        MARKED[getattr(inspect.unwrap(marked), "__module__", "")].update(marks_of(marked))
        return marked

    return mark if function is None else mark(function)


def marks_of(function: Callable[..., Any]) -> Iterator[Mark]:
    """Each kind that it is, with where it is written; none where another function makes it."""
    inner = inspect.unwrap(function)
    code, name = getattr(inner, "__code__", None), getattr(inner, "__qualname__", "<locals>")
    if code is not None and "<locals>" not in name:
        yield from (Mark(one.name, name, code.co_firstlineno) for one in function.__asynctask__)  # type: ignore[attr-defined]


def _check_settings(
    retries: int,
    timeout: float | None,
    place: str | None,
    backoff: Backoff | None,
    name: str | None,
) -> None:
    if not _is_number(retries, int) or not 0 <= retries <= MAX_RETRIES:
        raise ValueError(f"retries is an integer from 0 to {MAX_RETRIES}, not {retries!r}")
    if timeout is not None and not (_is_number(timeout, int | float) and timeout > 0 and isfinite(timeout)):
        raise ValueError(f"timeout is a number of seconds over 0, not {timeout!r}")
    if place is not None and place not in PLACES:
        raise ValueError(f"place is one of {', '.join(PLACES)}, not {place!r}")
    if backoff is not None and not _takes_a_number(backoff):
        raise ValueError(f"backoff is a function of the attempt's number, not {backoff!r}")
    if name is not None and not (isinstance(name, str) and LABEL.fullmatch(name)):
        raise ValueError(f"name is a string of 1 to {MAX_NAME} characters, without NUL, not {name!r}")


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _takes_a_number(function: Any) -> bool:
    try:
        inspect.signature(function).bind(2)
    except Exception as error:  # others: a builtin, of which nobody knows, or annotations that fail
        return not isinstance(error, TypeError)
    return True


def _marks(function: Callable[..., Any]) -> tuple[Settings, ...]:
    """What `task` was told of it already: a function may be several kinds."""
    marks: tuple[Settings, ...] = getattr(function, "__dict__", {}).get("__asynctask__", ())
    inner = getattr(function, "__wrapped__", None)
    # ``functools.wraps`` has copied those of the function inside it, which do not count.
    copied = getattr(inner, "__asynctask__", ())
    return tuple(one for one in marks if not any(one is other for other in copied))


def _check_limits(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and not (_is_number(limit, int) and limit > 0):
            raise ValueError(f"{name} is an integer over 0, not {limit!r}")


def _place_of(function: Callable[..., Any]) -> str:
    """Where it runs if nothing is said.

    :raises ValueError: it may be anywhere: a plain function that is put around an ``async def``.
    """
    if _is_async(function) or any(map(_is_inline_callbacks, _layers(function))):
        return "reactor"
    if any(map(_is_async, _layers(function))):
        raise ValueError(
            f"{function.__name__} is an async def inside a plain decorator: say where it runs, with place="
        )
    return "thread"


def _is_async(function: Callable[..., Any]) -> bool:
    """Whether it is an ``async def``, or an object that is called like one."""
    return any(map(inspect.iscoroutinefunction, (function, called(function))))


def _layers(function: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The function, and those that its decorators were put around."""
    inspect.unwrap(function)  # refuses one that is around itself
    inner: Callable[..., Any] | None = function
    while inner is not None:
        yield inner
        inner = getattr(inner, "__wrapped__", None)


def _is_inline_callbacks(function: Callable[..., Any]) -> bool:
    """Whether it is what ``inlineCallbacks`` itself makes of a function."""
    return getattr(called(function), "__code__", None) is _INLINE_CALLBACKS


def _generator_of(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The generator function whose steps may be taken instead; None if the function has to be called."""
    inner: Callable[..., Any] | None = getattr(function, "__wrapped__", None)
    if inner is None or not _is_inline_callbacks(function):
        return None
    return inner if inspect.isgeneratorfunction(inspect.unwrap(inner)) else None


def kinds_of(function: Callable[..., Any]) -> list[Kind]:
    """The kinds that a marked function is: mostly one.

    :raises RegistryError: it cannot be a handler.
    """
    return [_kind(function, settings) for settings in function.__asynctask__]  # type: ignore[attr-defined]


def _description(function: Callable[..., Any]) -> str | None:
    while isinstance(function, partial):  # whose own is about partials
        function = function.func
    text = inspect.getdoc(function)
    return text and text.encode("utf-8", "replace").decode()


def _kind(function: Callable[..., Any], settings: Settings) -> Kind:
    try:
        _check_place(function, settings.place)
        read = read_signature(function)
        if settings.place == "process":
            _check_classes(read.classes)
    except UnusableError as error:
        raise RegistryError(f"handler '{settings.name}' cannot be used: {error}") from None
    generator = _generator_of(function)
    return Kind(
        name=settings.name,
        function=function,
        place=settings.place,
        input=read,
        description=_description(function),
        timeout=settings.timeout,
        retries=settings.retries,
        concurrency=settings.concurrency,
        concurrency_total=settings.concurrency_total,
        backoff=settings.backoff,
        steps=generator or function,
        is_stepped=generator is not None or _is_async(function),
    )


def _check_place(function: Callable[..., Any], place: str) -> None:
    if any(map(inspect.isasyncgenfunction, (called(function), *_layers(function)))):
        raise UnusableError("it is an async def that yields; let it return")
    if inspect.isgeneratorfunction(called(function)):
        raise UnusableError("it yields; decorate it with inlineCallbacks, or let it return")
    if place == "asyncio" and not any(map(_is_async, _layers(function))):
        raise UnusableError("in place 'asyncio' it must be an async def")
    if place in ("thread", "process") and (_is_async(function) or _is_inline_callbacks(function)):
        raise UnusableError(f"in place '{place}' it must be a plain function")
    if place == "process":
        try:
            pickle.dumps(function)
        except Exception as error:
            raise UnusableError(f"no process could find it by its name: {in_a_line(error)}") from error


def _check_classes(classes: Iterable[type]) -> None:
    for cls in classes:
        try:
            pickle.dumps(memoryview(b"") if cls is memoryview else cls)
        except Exception as error:
            why = in_a_line(error)
            raise UnusableError(f"no {cls.__name__} can be sent to a process: {why}") from error


@task
@inlineCallbacks
def simulate(
    duration: Annotated[int, Meta(ge=0, le=MAX_DURATION)] = DURATION, *, context: Context
) -> Generator[Deferred[None], None, None]:
    """Run for ``duration`` seconds, one step a second."""
    clock = context.clock
    begun = clock.seconds()
    for step in range(1, duration + 1):
        # A step that comes late delays no other.
        wait = begun + step * STEP - clock.seconds()
        yield deferLater(clock, wait if wait > 0.0 else 0.0)
        context.progress(step, duration)


KINDS: Final[Mapping[str, Kind]] = {"simulate": kinds_of(simulate)[0]}
"""What there is without any module."""
