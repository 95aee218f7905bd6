"""Figures as people read them, and tables of Markdown."""

from collections.abc import Iterable, Sequence

from benchmarks.figures import Figure

NONE = "\N{EN DASH}"


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if value >= 100 or value == round(value):
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return f"{value:.3g}"


def shown(figure: Figure | None) -> str:
    """The median, and the least and the most where there are several runs."""
    if figure is None:
        return NONE
    middle = number(figure.median)
    if figure.runs == 1 or figure.low == figure.high:
        return middle
    return f"{middle} ({number(figure.low)} to {number(figure.high)})"


def times(ratio: float | None) -> str:
    """A ratio."""
    return NONE if ratio is None else f"{ratio:.2f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table; the first column is words, the others are numbers."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return [_row(head), _row(marks), *(_row(row) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
