"""``k6.js`` against several servers: the same script, once at each scale."""

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.catalog import BIN, OURS, ROOT, Peer
from benchmarks.rounds import Bench, Record
from benchmarks.running import BenchError, Running

PEERS: Final = (OURS, "go", "fastapi")

LENGTH: Final = 80
"""Seconds of the whole ramp."""

MISSED: Final = 99
"""k6's exit status where a threshold was missed: that is a figure, no failure."""


def measure(bench: Bench) -> list[Record]:
    """Answered/s, p99, and arrivals that could not be sent, at each scale."""

    def once(peer: Peer) -> Iterator[Record]:
        for scale in bench.settings.scales:
            with Running(peer, bench.cores) as server:
                yield {"scale": scale} | run(bench, server, scale)

    return bench.rounds(PEERS, once, runs=1)


def run(bench: Bench, server: Running, scale: float) -> dict[str, Any]:
    """One ramp.

    :raises BenchError: k6 is not there, or did not get to its end.
    """
    summary = server.site.folder / "k6.json"
    command = [str(BIN / "k6"), "run", "--quiet", "--no-usage-report", "--summary-export", str(summary)]
    variables = {
        "BASE_URL": f"http://127.0.0.1:{server.port}",
        "SCALE": str(scale),
        "TIME_SCALE": str(bench.settings.time_scale),
    }
    try:
        done = subprocess.run(
            bench.cores.on_load([*command, str(ROOT / "k6.js")]),
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=LENGTH * bench.settings.time_scale + 120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"k6 did not run: {error}") from None
    if done.returncode not in (0, MISSED):
        raise BenchError(f"k6 has ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    server.check_alive()
    return figures(json.loads(summary.read_text())) | {"thresholds_held": done.returncode == 0}


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    """What is kept of k6's summary."""
    metrics = summary["metrics"]
    times = metrics["http_req_duration"]
    checks = summary["root_group"]["checks"].values()
    return {
        "requests": metrics["http_reqs"]["count"],
        "requests_per_s": round(metrics["http_reqs"]["rate"], 1),
        "p50_ms": round(times["med"], 2),
        "p95_ms": round(times["p(95)"], 2),
        "p99_ms": round(times["p(99)"], 2),
        "failed": metrics["http_req_failed"]["passes"],
        "dropped": metrics.get("dropped_iterations", {}).get("count", 0),
        "checks_failed": sum(check["fails"] for check in checks),
    }
