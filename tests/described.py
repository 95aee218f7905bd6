"""Handlers whose inputs have every shape, for the tests of the description: `--tasks tests.described`."""

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta, Struct

from asynctask import Context, task


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Size:
    """Of a picture."""

    width: Annotated[int, Meta(ge=1, le=10_000)]
    height: Annotated[int, Meta(ge=1)] = 1


class Node(Struct):
    name: Annotated[str, Meta(max_length=5)]
    children: "list[Node]" = []


class Circle(Struct, tag=True):
    radius: Annotated[float, Meta(gt=0)]


class Square(Struct, tag=True):
    side: float
    color: Color = Color.RED


class Named(TypedDict, total=False):
    first: str
    last: str | None


@task
async def nothing() -> None:
    """Take nothing."""


@task(retries=2, timeout=5)
async def resize(source: str, size: Size, *, sharp: bool = False, context: Context) -> str:
    """Make a picture smaller."""
    context.progress(1, 1)
    return f"{source} {size.width} {sharp}"


@task(name="tree of nodes")
async def tree(root: Node, size: Size | None = None) -> Any:
    return {"name": root.name}


@task(name="tree_of_nodes")
async def shapes(
    shape: Circle | Square,
    names: Annotated[list[Named], Meta(max_length=3)] | None = None,
    level: Literal["low", "high", 3] = "low",
) -> None:
    raise ValueError("no shape will do")


@task(place="thread")
def anything(
    value: Any,
    several: list[Any] | None = None,
    pair: tuple[int, str] = (0, ""),
    more: dict[str, Any] | None = None,
    tags: set[int] | None = None,
    code: Annotated[str, Meta(pattern="^[a-z]+")] = "a",
    old: object = None,
    amounts: dict[Color, int] = {},  # noqa: B006
    worth: int = None,  # type: ignore[assignment]  # noqa: RUF013
) -> Any:
    return value
