"""Medians and spread over runs; results as files."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

Record = dict[str, Any]
Result = dict[str, Any]
"""`machine`, `versions`, `date`, `settings`, `skipped` and `records` of one measurement."""


@dataclass(frozen=True)
class Figure:
    """A figure over several runs."""

    median: float
    low: float
    high: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """The figure of these runs; None of none."""
        if not values:
            return None
        return cls(float(median(values)), min(values), max(values), len(values))


def figure(records: Iterable[Record], key: str, **where: Any) -> Figure | None:
    """The figure of those records that have it, and these values; failed runs have none."""
    return Figure.of([record[key] for record in chosen(records, **where) if key in record])


def chosen(records: Iterable[Record], **where: Any) -> list[Record]:
    """The records with these values."""
    return [each for each in records if all(each.get(key) == value for key, value in where.items())]


def values(records: Iterable[Record], key: str) -> list[Any]:
    """The different values of a key, as they first come."""
    return list(dict.fromkeys(record[key] for record in records if key in record))


def ratio(one: Figure | None, other: Figure | None) -> float | None:
    """One median by another; None where there is none to divide by."""
    if one is None or other is None or not other.median:
        return None
    return one.median / other.median


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The least value that so many percent do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def save(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """Keep a result as ``NAME.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def read(folder: Path) -> dict[str, Result]:
    """All results of a folder, by their names."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
