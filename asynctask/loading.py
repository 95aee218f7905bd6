"""Where the kinds are found: in the modules that are named, and in installed packages."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import entry_points
from inspect import getattr_static
from traceback import walk_tb
from types import ModuleType
from typing import Any, Final

from asynctask.registry import MARKED, Kind, RegistryError, kinds_of, marks_of, simulate
from asynctask.wire import in_a_line

GROUP: Final = "asynctask.tasks"
"""The entry points by which an installed package brings handlers."""

NOT_THEIRS: Final = tuple(os.path.dirname(file) + os.sep for file in (os.__file__, __file__))
"""Where Python's own modules are, and ours: what goes wrong there, somebody else's line has called for."""

NO_HANDLER: Final = "has no handler: decorate one with @asynctask.task"
"""What is said of a module or a package without one."""


def load(modules: Sequence[str], start: str = "") -> dict[str, Kind]:
    """The kinds of these modules, of the installed packages, and `simulate`.

    :param start: a folder where the modules are looked for first.
    :raises RegistryError: a module that cannot be imported or has no handler, one that cannot be used,
        or two of one name.
    """
    found: dict[str, tuple[Kind, str]] = {}
    _collect(found, [simulate], "asynctask")
    for entry_point in entry_points(group=GROUP):
        source = f"entry point {entry_point.name} = {entry_point.value}"
        handlers = _found(source, _imported(source, entry_point.load))
        if not handlers:
            raise RegistryError(f"{source} {NO_HANDLER}")
        _collect(found, handlers, source)
    if modules and start and sys.path[:1] != [start]:
        # Not before, and for nothing else: who may write there should not bring packages of his own.
        sys.path.insert(0, start)
    for name in modules:
        source = f"--tasks {name}"
        _check_module(name)
        handlers = _found(source, _imported(source, partial(importlib.import_module, name)))
        if not handlers:
            # Of several modules of that name it may be another one than was meant.
            file = getattr(sys.modules.get(name), "__file__", None)
            raise RegistryError(f"{source} ({file}) {NO_HANDLER}")
        _collect(found, handlers, source)
    return {name: kind for name, (kind, _) in found.items()}


def _check_module(name: str) -> None:
    """Refuse what cannot be the name of a module; `importlib` would say it in other words."""
    if not all(name.split(".")) or name.endswith(".py") or set(name) & {"/", ",", ":"}:
        path = name.partition(":")[0].removeprefix("./").removesuffix(".py").replace("/", ".")
        such_as = f" such as {path}" if all(path.split(".")) and "," not in path else ""
        raise RegistryError(
            f"--tasks takes the name of a module, as an import has it{such_as}, not '{name}'"
        )


def _imported(source: str, run: Callable[[], Any]) -> Any:
    MARKED.clear()
    try:
        return run()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise RegistryError(f"{source} cannot be imported: {_where(error)}") from None


def _where(error: BaseException) -> str:
    """What went wrong in an import, and in which line of whose code."""
    text = f"{type(error).__name__}: {in_a_line(error)}"
    lines = [(frame.f_code.co_filename, line) for frame, line in walk_tb(error.__traceback__)]
    theirs = [f"{file}, line {line}" for file, line in lines if not file.startswith(("<", *NOT_THEIRS))]
    return f"{text} ({theirs[-1]})" if theirs else text


def _found(source: str, loaded: Any) -> list[Callable[..., Any]]:
    """The handlers of a module, or of whatever else an entry point names.

    :raises RegistryError: one that the module had marked is not to be found in it.
    """
    handlers = _handlers(loaded)
    if isinstance(loaded, ModuleType):
        there = {mark for handler in handlers for mark in marks_of(handler)}
        for lost in sorted(MARKED[loaded.__name__] - there):
            raise RegistryError(
                f"{source}: handler '{lost.kind}' ({lost.function}, line {lost.line}) is not there when "
                "the module has been imported: give each a name of its own in it, outside of any class"
            )
    return handlers


def _handlers(loaded: Any) -> list[Callable[..., Any]]:
    values = vars(loaded).values() if isinstance(loaded, ModuleType) else [loaded]
    # Some objects, such as proxies, have every attribute that they are asked for.
    marked = [one for one in values if isinstance(getattr_static(one, "__asynctask__", None), tuple)]
    # By their identity: objects that can be called may be equal, or have no hash.
    return list({id(value): value for value in marked if callable(value)}.values())


def _collect(
    found: dict[str, tuple[Kind, str]], handlers: Iterable[Callable[..., Any]], source: str
) -> None:
    try:
        kinds = [kind for function in handlers for kind in kinds_of(function)]
    except RegistryError as error:
        raise RegistryError(f"{source}: {error}") from None
    for kind in kinds:
        if kind.name in found:
            other, first = found[kind.name]
            if other.function is kind.function:
                continue
            if first == source:
                names = [getattr(one.function, "__qualname__", one.function) for one in (other, kind)]
                raise RegistryError(f"{source} has two handlers '{kind.name}': {names[0]} and {names[1]}")
            raise RegistryError(f"{source} has a handler '{kind.name}', and so has {first}")
        found[kind.name] = (kind, source)
