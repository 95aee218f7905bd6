r"""Make a report from a CSV file, in a thread: the sum, the mean and the count of each group.

In this folder:

    twistd -n asynctask --tasks report

    curl -H 'Content-Type: application/json' -H 'Prefer: wait=20' localhost:8080/api/tasks \
         -d '{"name": "sales", "kind": "report",
              "input": {"path": "sales.csv", "group_by": "city", "value": "amount", "format": "markdown"}}'

The report is written next to the file. A relative path begins where the service was started.
"""

import csv
import json
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from twisted.internet.defer import CancelledError

from asynctask import Context, Permanent, task

EVERY = 1_000
"""Rows between two words of progress."""


@task(retries=2, timeout=600)
def report(
    path: str,
    group_by: str,
    value: str,
    format: Literal["json", "markdown"] = "json",  # noqa: A002
    *,
    context: Context,
) -> dict[str, Any]:
    """Sum a column of a CSV file for each value of another column."""
    groups: dict[str, list[float]] = {}
    rows = skipped = 0
    try:
        total = sum(1 for _ in read(path, group_by, value))
        for rows, (group, text) in enumerate(read(path, group_by, value), start=1):
            try:
                number = float(text)
            except ValueError:
                number = float("nan")
            if isfinite(number):
                groups.setdefault(group, []).append(number)
            else:
                skipped += 1
            if rows % EVERY == 0 or rows == total:
                if context.cancelled:
                    raise CancelledError
                context.progress(rows, total)
    except (FileNotFoundError, UnicodeDecodeError, csv.Error) as error:
        # It will not be there, or be right, in a moment either; whatever else happens is tried again.
        raise Permanent(f"{path} cannot be read: {error}") from error
    sums = [{"group": name, **figures(numbers)} for name, numbers in sorted(groups.items())]
    target = Path(path).with_suffix(".report.md" if format == "markdown" else ".report.json")
    target.write_text(table(group_by, sums) if format == "markdown" else json.dumps(sums), "utf-8")
    totals = figures([number for numbers in groups.values() for number in numbers])
    return {"path": str(target), "rows": rows, "skipped": skipped, "groups": len(groups), "totals": totals}


def read(path: str, *columns: str) -> Iterator[list[str]]:
    """These columns of each row."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := set(columns).difference(reader.fieldnames or ()):
            raise Permanent(f"{path} has no column {', '.join(sorted(missing))}")
        for row in reader:
            yield [row[column] or "" for column in columns]


def figures(numbers: list[float]) -> dict[str, float]:
    """What a report tells of some numbers."""
    total = sum(numbers)
    return {"count": len(numbers), "sum": round(total, 6), "mean": round(total / max(1, len(numbers)), 6)}


def table(title: str, sums: list[dict[str, Any]]) -> str:
    """The report in Markdown."""
    lines = [f"| {title} | count | sum | mean |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {one['group']} | {one['count']} | {one['sum']:g} | {one['mean']:g} |" for one in sums]
    return "\n".join(lines) + "\n"
