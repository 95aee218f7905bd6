"""The tables of docs/performance.md, a section for each measurement."""

import math
from collections.abc import Callable, Mapping
from typing import Final

from benchmarks.catalog import ATTEMPTS, OURS, OURS_ON_POSTGRES, PEERS
from benchmarks.figures import Figure, Record, chosen, figure, ratio, values
from benchmarks.tables import NONE, shown, table, times

AFTER: Final = (
    "*finished/s after*: of what the load had left, where that was more than a second's work. The ratios",
    "take whichever of the two is more.",
)


def label(name: str) -> str:
    """A peer for people."""
    return PEERS[name].label if name in PEERS else name


def accept(records: list[Record]) -> list[str]:
    """The whole job under full load."""
    rows = []
    for peer in values(records, "peer"):
        of = chosen(records, peer=peer)
        rows.append(
            [
                label(peer),
                *(shown(figure(of, key)) for key in ("accepted_per_s", "p50_ms", "p99_ms")),
                shown(figure(of, "answers_p99_ms")),
                *(shown(figure(of, key)) for key in ("cpu_percent", "memory_mb")),
                *(worst(figure(of, key)) for key in ("started_of_accepted", "ended_of_accepted")),
                troubles(of),
            ]
        )
    head = ["", "accepted/s", "p50 ms", "p99 ms", "p99 of answers", "CPU %", "memory MB"]
    return [
        "## Accepting, under full load",
        "",
        *table([*head, "started", "ended", "not 202, broken"], rows),
        "*p99* is as wrk says it: an answer that took over twice the mean counts for those too that the",
        "connection would have asked for meanwhile. *p99 of answers* is of those that came.",
        "*started*: of the accepted tasks, those that had started when the load was over; *ended*: those",
        "that had ended 15 seconds later. Both are those of the worst run.",
        "",
        *ratios(
            records,
            ("accepted_per_s", "p99_ms", "answers_p99_ms"),
            ("accepted/s", "p99", "p99 of answers"),
            ((OURS, "fastapi"), (OURS, "starlette"), (OURS, "go"), (OURS, "asynctask-memory")),
        ),
    ]


def worst(part: Figure | None) -> str:
    """The least part of a whole in all runs; all of it only where nothing is missing."""
    return NONE if part is None else f"{math.floor(1000 * part.low) / 10:g} %"


def durable(records: list[Record]) -> list[str]:
    """Queues that keep their tasks."""
    rows = []
    keys = ("accepted_per_s", "finished_per_s", "then_finished_per_s", "p99_ms", "cpu_percent", "memory_mb")
    for peer in values(records, "peer"):
        of = chosen(records, peer=peer)
        promise = PEERS[peer].promise if peer in PEERS else NONE
        rows.append([label(peer), *(shown(figure(of, key)) for key in keys), troubles(of), promise])
    head = ["", "accepted/s", "finished/s", "finished/s after", "p99 ms", "CPU %", "memory MB"]
    others = [peer for peer in values(records, "peer") if peer != OURS]
    return [
        "## Queues that keep their tasks",
        "",
        "Tasks that do nothing, so that it is the queues that are measured, with their workers at work.",
        "",
        *table([*head, "not 202, broken", "a 202 is"], rows),
        *AFTER,
        "",
        *ratios(
            records,
            ("accepted_per_s", "best_finished_per_s"),
            ("accepted/s", "finished/s"),
            tuple((OURS, other) for other in others),
        ),
    ]


def scale(records: list[Record]) -> list[str]:
    """Queues on PostgreSQL, and processes of asynctask."""
    keys = ("accepted_per_s", "finished_per_s", "then_finished_per_s", "p50_ms", "p99_ms")
    taken = ("cpu_percent", "database_cores", "memory_mb")
    rows, names = [], values(records, "peer")
    for peer in names:
        of = chosen(records, peer=peer)
        rows.append([label(peer), *(shown(figure(of, key)) for key in (*keys, *taken)), troubles(of)])
    head = ["", "accepted/s", "finished/s", "finished/s after", "p50 ms", "p99 ms", "CPU %"]
    return [
        "## Queues on PostgreSQL",
        "",
        "Tasks that do nothing again. Each run has a new PostgreSQL, as it comes, with each commit synced,",
        "over a Unix socket. It may use every core, also that of the load, whoever the peer is. So may",
        "asynctask with several processes: on two cores they share them with the database and the load.",
        "Whatever else a peer consists of shares one core, as everywhere. Each 202 is a commit, kept",
        "through a kill and a power cut.",
        "",
        *table([*head, "cores of PostgreSQL", "memory MB", "not 202, broken"], rows),
        *AFTER,
        "CPU and memory are without PostgreSQL's.",
        "",
        *ratios(
            records,
            ("accepted_per_s", "best_finished_per_s"),
            ("accepted/s", "finished/s"),
            tuple(
                (OURS_ON_POSTGRES, other) for other in values(records, "peer") if other != OURS_ON_POSTGRES
            ),
        ),
    ]


def inflight(records: list[Record]) -> list[str]:
    """Tasks in flight."""
    keys = (
        "bytes_each",
        "memory_mb",
        "idle_cpu_percent",
        "accepted_per_s",
        "p50_ms",
        "p99_ms",
        "cpu_percent",
    )
    rows, growth = [], []
    for peer in values(records, "peer"):
        of = chosen(records, peer=peer)
        levels, runs = sorted(values(of, "level")), len(values(of, "run"))
        for level in levels:
            at = chosen(of, level=level)
            rows.append(
                [f"{label(peer)}, {level:,}", *(shown(figure(at, key)) for key in keys), troubles(at, runs)]
            )
        if len(levels) > 1:
            few, many = (figure(of, "p99_ms", level=level) for level in (levels[0], levels[-1]))
            growth.append([label(peer), f"{levels[-1]:,} : {levels[0]:,}", times(ratio(many, few))])
    head = ["", "bytes each", "memory MB", "idle CPU %", "accepted/s", "p50 ms", "p99 ms", "CPU %"]
    return [
        "## Tasks in flight",
        "",
        "Tasks that wait once, for 600 seconds. With so many of them in flight, others are POSTed that do",
        f"nothing. asynctask has `--concurrency {ATTEMPTS}`, so that these run beside a million, and gets",
        "its waiting tasks a thousand in a request; the others, which take no batches, one by one.",
        "",
        *table([*head, "not 202, broken"], rows),
        *table(["p99 of a POST, with many in flight : with few", "tasks", "ratio"], growth),
        *(
            f"{peer.label} was not measured beyond {peer.most:,}: {peer.short_of}.\n"
            for name, peer in PEERS.items()
            if peer.short_of and chosen(records, peer=name)
        ),
    ]


def ontime(records: list[Record]) -> list[str]:
    """Late steps."""
    keys = ("tasks", "late_p50_ms", "late_p99_ms", "late_worst_ms", "on_time_percent")
    full = ("full_late_p99_ms", "full_late_worst_ms", "full_on_time_percent")
    rows = [
        [label(peer), *(shown(figure(chosen(records, peer=peer), key)) for key in (*keys, *full))]
        for peer in values(records, "peer")
    ]
    head = ["", "tasks", "p50 ms", "p99 ms", "worst ms", "within 100 ms, %"]
    return [
        "## Steps on time",
        "",
        "How late each step of many `simulate` tasks is, by the log, from the start of its task on. They",
        "are POSTed evenly over some seconds, so that as many steps are due at any moment. The right half",
        "is of the steps that were due when all tasks had begun. asynctask gets its tasks 50 in a request,",
        "Go, which takes no batches, one by one.",
        "",
        *table([*head, "then: p99 ms", "worst ms", "within 100 ms, %"], rows),
    ]


def lone(records: list[Record]) -> list[str]:
    """A POST on an idle service."""
    rows, keys = [], ("post_p50_ms", "post_p99_ms", "sync_p50_ms", "sync_p99_ms")
    for peer in values(records, "peer"):
        of = chosen(records, peer=peer)
        by = ratio(figure(of, "post_p50_ms"), figure(of, "sync_p50_ms"))
        rows.append([label(peer), *(shown(figure(of, key)) for key in keys), times(by)])
    head = ["", "POST p50 ms", "p99 ms", "sync p50 ms", "p99 ms", "POST : sync, p50"]
    return [
        "## A lone POST",
        "",
        "One connection, 20 ms between two requests; and then the disk alone: 4 KiB and an `fdatasync`.",
        "",
        *table(head, rows),
    ]


def live(records: list[Record]) -> list[str]:
    """Health under load."""
    keys = ("live_p50_ms", "live_p99_ms", "live_max_ms", "accepted_per_s", "p99_ms")
    rows = [
        [label(peer), *(shown(figure(chosen(records, peer=peer), key)) for key in keys)]
        for peer in values(records, "peer")
    ]
    head = ["", "GET p50 ms", "p99 ms", "max ms", "POSTs: accepted/s", "p99 ms"]
    return ["## `GET /health/live` under full load", "", *table(head, rows)]


def k6(records: list[Record]) -> list[str]:
    """The ramp."""
    rows = []
    for scale in values(records, "scale"):
        for record in chosen(records, scale=scale):
            keys = ("requests_per_s", "p50_ms", "p95_ms", "p99_ms", "failed", "dropped", "checks_failed")
            cells = [shown(figure([record], key)) for key in keys]
            held = "held" if record["thresholds_held"] else "missed"
            rows.append([f"{label(record['peer'])}, {scale:g}", *cells, held])
    head = ["peer, SCALE", "answered/s", "p50 ms", "p95 ms", "p99 ms", "failed", "dropped"]
    return [
        "## The ramp of `k6.js`",
        "",
        "`SCALE=1` climbs to 100,000 arrivals a second, which k6 on one core cannot send: it counts what",
        "it did not as dropped. Thresholds: p95 under 500 ms, p99 under 1,000 ms, less than 1 % failed.",
        "",
        *table([*head, "checks failed", "thresholds"], rows),
    ]


def start(records: list[Record]) -> list[str]:
    """The start."""
    words = {"empty": "nothing", "not due": "{:,} tasks for tomorrow", "due": "{:,} tasks that are due"}
    rows = []
    for store in values(records, "store"):
        of = chosen(records, store=store)
        rows.append([words[store].format(of[0]["waiting"]), shown(figure(of, "seconds"))])
    return [
        "## The start",
        "",
        "From `twistd -n asynctask` to the first 202.",
        "",
        *table(["in the store", "seconds"], rows),
    ]


SECTIONS: Final[Mapping[str, Callable[[list[Record]], list[str]]]] = {
    "accept": accept,
    "durable": durable,
    "scale": scale,
    "inflight": inflight,
    "ontime": ontime,
    "lone": lone,
    "live": live,
    "k6": k6,
    "start": start,
}


def ratios(
    records: list[Record],
    keys: tuple[str, ...],
    heads: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
) -> list[str]:
    """A table of medians divided by each other, for the pairs of which both were measured."""
    rows = []
    records = [*map(best, records)]
    for one, other in pairs:
        mine, theirs = (chosen(records, peer=peer) for peer in (one, other))
        found = [times(ratio(figure(mine, key), figure(theirs, key))) for key in keys]
        if any(cell != NONE for cell in found):
            rows.append([f"{label(one)} : {label(other)}", *found])
    return table(["ratio of the medians", *heads], rows) if rows else []


def best(record: Record) -> Record:
    """With the more of what was finished a second under load and after it."""
    finished = [record[key] for key in ("finished_per_s", "then_finished_per_s") if key in record]
    return record | {"best_finished_per_s": max(finished)} if finished else record


def troubles(records: list[Record], runs: int = 0) -> str:
    """How many answers were not 202, and how many never came; and how many runs tell this.

    :param runs: how many there were, where `records` has not one of each.
    """
    good = [record for record in records if "error" not in record]
    count = sum(record.get("refused", 0) + record.get("errors", 0) for record in good)
    return f"{count:,} in {len(good)} of {runs or len(records)} runs"
