r"""Make a report from a CSV file, in a thread: the sum, the mean and the count of each group.

In this folder, with a file of your own or this one:

    printf 'city,amount\nBonn,3\nKiel,4.5\nBonn,1.5\n' > sales.csv
    twistd -n asynctask --tasks report

    curl -H 'Content-Type: application/json' -H 'Prefer: wait=20' localhost:8080/api/tasks \
         -d '{"name": "sales", "kind": "report",
              "input": {"path": "sales.csv", "group_by": "city", "value": "amount", "style": "markdown"}}'

The report is written next to the file. A relative path begins where the service was started.
"""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any, Literal

from asynctask import Context, Permanent, task

EVERY = 1_000
"""Rows between two words of progress."""

Report = dict[str, Any]
Style = Literal["json", "markdown"]


@task(retries=2, timeout=600)
def report(path: str, group_by: str, value: str, style: Style = "json", *, context: Context) -> Report:
    """Sum a column of a CSV file for each value of another column."""
    counts, sums = Counter[str](), defaultdict[str, float](float)
    rows = 0
    try:
        total = sum(1 for _ in read(path, group_by, value))
        for rows, (group, text) in enumerate(read(path, group_by, value), start=1):
            if (number := parse(text)) is not None:
                counts[group] += 1
                sums[group] += number
            if rows % EVERY == 0 or rows == total:
                if context.cancelled:
                    raise CancelledError
                context.progress(rows, total)
    except (FileNotFoundError, UnicodeDecodeError, csv.Error) as error:
        # It will not be there, or be right, in a moment either; whatever else happens is tried again.
        raise Permanent(f"{path} cannot be read: {error}") from error
    lines = [{"group": name, **figures(counts[name], sums[name])} for name in sorted(counts)]
    target = Path(path).with_suffix(f".report.{style}")
    target.write_text(table(group_by, lines) if style == "markdown" else json.dumps(lines), "utf-8")
    totals = figures(counts.total(), sum(sums.values()))
    return {"path": str(target), "rows": rows, "skipped": rows - counts.total(), "totals": totals}


def read(path: str, *columns: str) -> Iterator[list[str]]:
    """These columns of each row."""
    with Path(path).open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if missing := set(columns).difference(reader.fieldnames or ()):
            raise Permanent(f"{path} has no column {', '.join(sorted(missing))}")
        for row in reader:
            yield [row[column] or "" for column in columns]


def parse(text: str) -> float | None:
    """A number; None for anything else."""
    with suppress(ValueError):
        return number if isfinite(number := float(text)) else None
    return None


def figures(count: int, total: float) -> dict[str, float]:
    return {"count": count, "sum": round(total, 6), "mean": round(total / max(1, count), 6)}


def table(title: str, lines: list[Report]) -> str:
    head = f"| {title} | count | sum | mean |\n| --- | ---: | ---: | ---: |\n"
    return head + "".join("| {group} | {count} | {sum} | {mean} |\n".format(**line) for line in lines)
