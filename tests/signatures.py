"""A handler that takes everything, and what its input is found to be."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypedDict, TypeVar
from uuid import UUID

from msgspec import Meta, Struct

from asynctask.context import Context
from asynctask.inputs import Input, read_signature

T = TypeVar("T")

Width = Annotated[int, Meta(ge=1, le=4096)]


@dataclass
class Node:
    """A dataclass that contains itself."""

    name: str
    size: int = 1
    children: "list[Node]" = field(default_factory=list)


@dataclass
class Span:
    """A dataclass with a rule of its own."""

    first: int
    last: int

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"{self.first} comes after {self.last}")
        if self.first == 13:
            raise RuntimeError("a bug")


class Options(TypedDict):
    """A TypedDict."""

    depth: int
    label: NotRequired[str]


class Point(NamedTuple):
    """A NamedTuple, which is an array in JSON."""

    x: int
    y: int = 0


class Pair(Struct, array_like=True):
    """A Struct that is an array in JSON."""

    left: int
    right: int = 0


class Circle(Struct, tag="circle"):
    """One of two Structs that a field tells apart."""

    radius: int


class Square(Struct, tag="square", rename="camel"):
    """The other one, with another name for its field."""

    side_length: float = 1.0


class Left(Struct, tag="left", array_like=True):
    """One of two Structs that the first item of an array tells apart."""


class Right(Struct, tag="right", array_like=True):
    """The other one."""


class Frozen(Struct, Generic[T], frozen=True):
    """A Struct that may be in a set."""

    value: T


class Hashed(Struct):
    """One that says itself how."""

    key: int

    def __hash__(self) -> int:
        return self.key


@dataclass
class Cached:
    """A dataclass that keeps something to itself."""

    key: int
    cache: dict[str, int] = field(init=False, default_factory=dict)


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Level(Enum):
    LOW = 1
    HIGH = 2


def everything(  # type: ignore[no-untyped-def]
    url: Annotated[str, Meta(min_length=1, max_length=5, pattern="^a")],
    width: Width = 200,
    *,
    ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.5,
    node: Node | None = None,
    spans: tuple[Span, ...] = (),
    options: Optional[Options] = None,  # noqa: UP045 - users write it
    point: Point = Point(1),  # noqa: B008 - it is immutable
    pair: Pair | None = None,
    figure: Circle | Square | int | None = None,
    counts: Annotated[dict[Annotated[str, Meta(max_length=3)], int], Meta(max_length=2)] | None = None,
    by_number: dict[int, list[Width]] | None = None,
    chosen: Annotated[set[int], Meta(min_length=1)] | None = None,
    row: tuple[int, str] | None = None,
    at: datetime | None = None,
    price: Decimal | None = None,
    key: UUID | None = None,
    colour: Colour | Level = Colour.RED,
    mode: Literal["a", "b", 3] = "a",
    data: bytes = b"",
    words: Annotated[Sequence[str], Meta(max_length=2)] = (),
    other: object = None,
    loose=None,
    context: Context,
) -> None: ...


EVERYTHING = read_signature(everything)


def details(taken: Input, value: dict[str, Any]) -> list[str]:
    """What is wrong with an input, in the order in which it is told."""
    return [error.detail for error in taken.check(value)[1]]


def pointers(taken: Input, value: dict[str, Any]) -> list[str]:
    return [error.pointer for error in taken.check(value)[1]]


def taking(annotation: Any) -> Input:
    """What a handler takes that is given one value."""

    def handler(x: Any) -> None: ...

    handler.__annotations__["x"] = annotation
    return read_signature(handler)


def arguments(taken: Input, value: dict[str, Any]) -> dict[str, Any]:
    """What the handler gets for an input in which nothing is wrong."""
    stored, errors = taken.check(value)
    assert errors == []
    return taken.arguments(stored)


UNHASHABLE: Any = (dict, list[int], bytearray, Span, Circle)
NO_KEYS: Any = (bool, None, bool | None)
