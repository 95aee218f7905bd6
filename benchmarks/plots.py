"""The pictures of docs/performance.md; matplotlib is there only where measuring is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib import pyplot

from benchmarks.figures import Figure, Record, Result, chosen, figure, values
from benchmarks.sections import label

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "asynctask"  # the same figures give the same file

COLOURS: Final = ("#0b6e4f", "#5d737e", "#c8553d", "#8a5a9e", "#d4a017", "#2f4b7c")

PANELS: Final = {
    "accepted_per_s": "accepted/s",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
    "memory_mb": "memory, MB",
    "cpu_percent": "CPU under load, %",
    "idle_cpu_percent": "CPU without load, %",
}

LOGARITHMIC: Final = ("p50_ms", "p99_ms", "memory_mb")
"""What differs by factors between the peers."""


def draw(results: Mapping[str, Result], folder: Path) -> list[str]:
    """Draw what there is, into a folder; the names of the files."""
    drawn = []
    for name, how in (("accept", bars), ("durable", pairs), ("scale", pairs), ("inflight", curves)):
        if name in results and any("error" not in each for each in results[name]["records"]):
            picture = how(results[name]["records"])
            drawn.append(f"performance-{name}.svg")
            picture.savefig(folder / drawn[-1], metadata={"Date": None, "Creator": None})
            pyplot.close(picture)
    return drawn


def bars(records: list[Record]) -> Any:
    """Accepted/s and p99 of each peer, with the spread."""
    picture, axes = pyplot.subplots(1, 2, figsize=(10, 3.2), layout="constrained")
    for axis, key, title in zip(axes, ("accepted_per_s", "p99_ms"), ("accepted/s", "p99, ms"), strict=True):
        _bars(axis, records, key, title)
    axes[1].set_yticklabels([])
    return picture


def pairs(records: list[Record]) -> Any:
    """Accepted/s and finished/s of each peer, with the spread."""
    picture, axes = pyplot.subplots(1, 2, figsize=(10, 2.4), layout="constrained")
    keys = ("accepted_per_s", "finished_per_s")
    for axis, key, title in zip(axes, keys, ("accepted/s", "finished/s"), strict=True):
        _bars(axis, records, key, title)
    axes[1].set_yticklabels([])
    return picture


def plain(peer: str) -> str:
    """A peer's label without marks of Markdown."""
    return label(peer).replace("`", "")


def _bars(axis: Any, records: list[Record], key: str, title: str) -> None:
    found = {peer: figure(records, key, peer=peer) for peer in values(records, "peer")}
    there = {peer: one for peer, one in found.items() if one is not None}
    names = [plain(peer) for peer in there]
    medians = [one.median for one in there.values()]
    axis.barh(names, medians, xerr=spread(list(there.values())), color=COLOURS[0], ecolor="#222222")
    axis.invert_yaxis()
    axis.set_title(title)


def spread(figures: list[Figure]) -> list[list[float]]:
    """How far the least and the most are from the medians."""
    return [[one.median - one.low for one in figures], [one.high - one.median for one in figures]]


def curves(records: list[Record]) -> Any:
    """Each figure by tasks in flight, a line a peer."""
    picture, axes = pyplot.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for axis, (key, title) in zip(axes.flat, PANELS.items(), strict=True):
        for peer, colour in zip(values(records, "peer"), COLOURS, strict=False):
            of = chosen(records, peer=peer)
            points = [(level, figure(of, key, level=level)) for level in sorted(values(of, "level"))]
            there = [(level, one) for level, one in points if one is not None]
            if there:
                levels, figures = [level for level, _ in there], [one for _, one in there]
                axis.errorbar(
                    levels,
                    [one.median for one in figures],
                    yerr=spread(figures),
                    color=colour,
                    marker="o",
                    markersize=3,
                    label=plain(peer),
                )
        axis.set_xscale("log")
        axis.set_title(title)
        if key in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
    for axis in axes[1]:
        axis.set_xlabel("tasks in flight")
    picture.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return picture
