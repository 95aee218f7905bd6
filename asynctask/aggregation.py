"""The numbers of many processes as those of one."""

from collections.abc import Callable, Iterable, Sequence
from operator import add
from typing import Final

from msgspec import Struct

Merge = Callable[[float, float], float]

OF_ALL: Final[dict[str, Merge]] = {
    "asynctask_tasks_not_ended": max,
    "asynctask_callbacks_pending": max,
    "asynctask_longest_step_seconds": max,
    "asynctask_store_healthy": min,
    "asynctask_build": max,
}
"""What is no sum: each process knows it of all, or the worst counts."""

COUNTED: Final = ("counter", "histogram")
"""What only grows, and so must outlive the process that counted it."""


class Sample(Struct, array_like=True, frozen=True):
    """One number."""

    name: str
    labels: dict[str, str]
    value: float


class Family(Struct, array_like=True, frozen=True):
    """The numbers of one metric.

    :ivar kind: as Prometheus calls its type.
    """

    name: str
    kind: str
    text: str
    samples: list[Sample]


Families = Sequence[Family]


def merge(parts: Iterable[Families]) -> list[Family]:
    """The numbers of all of them."""
    found: dict[str, Family] = {}
    merged: dict[str, dict[tuple[str, ...], Sample]] = {}
    for part in parts:
        for family in part:
            found.setdefault(family.name, family)
            how = OF_ALL.get(family.name, add)
            samples = merged.setdefault(family.name, {})
            for one in family.samples:
                key = (one.name, *(word for label in sorted(one.labels.items()) for word in label))
                before = samples.get(key)
                value = one.value if before is None else how(before.value, one.value)
                samples[key] = Sample(one.name, one.labels, value)
    return [
        Family(name, family.kind, family.text, list(merged[name].values()))
        for name, family in found.items()
    ]


def counted(families: Families) -> list[Family]:
    """What is left of the numbers of a process that has ended."""
    return [family for family in families if family.kind in COUNTED]
