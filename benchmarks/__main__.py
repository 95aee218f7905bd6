"""``python -m benchmarks``: all measurements, or one of them; then docs/performance.md."""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import accept, durable, inflight, ontime, ramp, scale, single, start
from benchmarks.catalog import PEERS, ROOT, WORK, missing
from benchmarks.figures import read, save
from benchmarks.machine import machine, today, versions
from benchmarks.report import render
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Cores
from benchmarks.settings import FULL, QUICK, Settings

MEASUREMENTS: Final[dict[str, Callable[[Bench], list[Record]]]] = {
    "accept": accept.measure,
    "durable": durable.measure,
    "scale": scale.measure,
    "inflight": inflight.measure,
    "ontime": ontime.measure,
    "lone": single.lone,
    "live": single.live,
    "k6": ramp.measure,
    "start": start.measure,
}

RESULTS: Final = ROOT / "benchmarks" / "results"
PAGE: Final = ROOT / "docs" / "performance.md"
QUICK_FOLDER: Final = WORK / "quick"
"""What is quickly measured is not worth the place of what was measured well."""


def integers(text: str) -> tuple[int, ...]:
    """Numbers with commas between."""
    return tuple(int(part) for part in text.split(","))


def numbers(text: str) -> tuple[float, ...]:
    """The same, with fractions."""
    return tuple(float(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names of peers with commas between."""
    given = tuple(text.split(","))
    if unknown := [name for name in given if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"no peer is named {unknown[0]}; there are {', '.join(PEERS)}")
    return given


def arguments() -> argparse.ArgumentParser:
    """What the command takes; what is not given is as `FULL` or `QUICK` says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        default="all",
        choices=["all", *MEASUREMENTS, "report"],
        help="one measurement, or only the page from what was measured before",
    )
    parser.add_argument("--quick", action="store_true", help=f"two minutes; into {QUICK_FOLDER.name}/")
    parser.add_argument("--runs", type=int, help="of each peer")
    parser.add_argument("--seconds", type=int, help="of load that is measured")
    parser.add_argument("--warm-up", type=int, help="seconds of load before")
    parser.add_argument("--peers", type=names, help="only these, with commas between")
    parser.add_argument("--levels", type=integers, help="inflight: tasks in flight, with commas between")
    parser.add_argument("--filling", type=int, help="seconds to have so many in")
    parser.add_argument("--on-time", type=int, help="ontime: tasks")
    parser.add_argument("--on-time-steps", type=int, help="ontime: steps of each")
    parser.add_argument("--posts", type=int, help="lone: requests")
    parser.add_argument("--scales", type=numbers, help="k6: SCALE, several with commas between")
    parser.add_argument("--time-scale", type=float, help="k6: TIME_SCALE")
    parser.add_argument("--waiting", type=int, help="start: tasks in the store")
    parser.add_argument("--results", type=Path, help="folder of the JSON files")
    parser.add_argument("--page", type=Path, help="the page to write")
    return parser


def settings_of(given: dict[str, Any]) -> Settings:
    """The settings that the arguments ask for."""
    basis = QUICK if given["quick"] else FULL
    return replace(basis, **{key: given[key] for key in asdict(basis) if given.get(key) is not None})


def measure(names: list[str], settings: Settings, results: Path) -> None:
    """Measure, and keep each result as soon as it is there.

    :raises BenchError: it cannot be measured here at all.
    """
    if sentence := missing(("wrk",)):
        raise BenchError(sentence)
    cores = Cores()
    cores.settle()
    WORK.mkdir(exist_ok=True)
    for name in names:
        say(f"{name}:")
        busy = round(os.getloadavg()[0], 2)
        bench = Bench(settings, cores, lambda line: say(f"  {line}"))
        records = MEASUREMENTS[name](bench)
        result = {
            "date": today(),
            "machine": machine(WORK) | {"load_before": busy},
            "versions": versions(),
            "settings": asdict(settings),
            "skipped": bench.skipped,
            "records": records,
        }
        say(f"  kept in {save(results, name, result)}")


def write_page(results: Path, page: Path) -> None:
    """Write the page, and the pictures beside it."""
    from benchmarks.plots import draw

    found = read(results)
    drawn = draw(found, page.parent)
    page.write_text(render(found, drawn))
    say(f"{page} is written")


def say(line: str) -> None:
    """Tell who looks on."""
    print(line, flush=True)


def main() -> None:
    """Do what the command line says."""
    given = vars(arguments().parse_args())
    # Servers have sessions of their own: they end because this unwinds, not with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmarks: ended by SIGTERM"))
    folder = QUICK_FOLDER if given["quick"] else None
    results = given["results"] or folder or RESULTS
    page = given["page"] or (folder / PAGE.name if folder else PAGE)
    what = given["what"]
    try:
        if what != "report":
            measure(list(MEASUREMENTS) if what == "all" else [what], settings_of(given), results)
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
    if what in ("all", "report"):
        write_page(results, page)


if __name__ == "__main__":
    main()
