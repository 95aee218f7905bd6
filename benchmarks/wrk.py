"""wrk on the core of the load: for some seconds, or until a server has enough tasks."""

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.running import BenchError, Cores

HERE: Final = Path(__file__).parent

CONNECTIONS: Final = 64

WHOLE_JOB: Final = tuple(
    json.dumps({"name": "generate-report", "duration": duration}) for duration in range(1, 6)
)
NOOP: Final = (json.dumps({"name": "nothing", "kind": "noop"}),)

TIMEOUT: Final = 10
"""Seconds after which wrk counts an answer as late; slower peers shall not be cut short of theirs."""

BATCH: Final = 1_000
"""Tasks of one batch, the most that asynctask takes."""

FILLING: Final = 16
"""Connections that fill a server, a task a request; what is on its way at the end comes beside.
One is enough for batches, and then nothing comes beside."""


@dataclass(frozen=True)
class Load:
    """What wrk says of a load.

    :ivar requests: answered ones.
    :ivar duration: seconds; ``p50``, ``p99`` and ``longest`` are milliseconds, as wrk says them: for each
        answer that took over twice the mean it adds those of the requests it would have sent meanwhile.
    :ivar answers_p50: milliseconds; like ``answers_p99`` of the answers that came, and of no others.
    :ivar refused: answers with a status over 399.
    :ivar errors: of connections: not made, lost, or answered only after `TIMEOUT` seconds.
    """

    requests: int
    duration: float
    p50: float
    p99: float
    longest: float
    answers_p50: float
    answers_p99: float
    refused: int
    errors: int

    @property
    def accepted(self) -> int:
        """Requests that were answered 202: `checks` has seen that no other good status comes."""
        return self.requests - self.refused

    @property
    def rate(self) -> float:
        """Accepted tasks a second."""
        return self.accepted / self.duration

    def record(self) -> dict[str, Any]:
        """As it is kept."""
        return {
            "accepted_per_s": round(self.rate, 1),
            "p50_ms": self.p50,
            "p99_ms": self.p99,
            "max_ms": self.longest,
            "answers_p50_ms": self.answers_p50,
            "answers_p99_ms": self.answers_p99,
            "requests": self.requests,
            "refused": self.refused,
            "errors": self.errors,
        }


def parse(output: str) -> Load:
    """What ``post.lua`` has written at the end of wrk's output.

    :raises BenchError: nothing, or no request was answered, or it counts in another way than we know.
    """
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise BenchError(f"wrk has no result: {' '.join(output.split()) or 'no output'}")
    found = json.loads(lines[-1])
    if not found["requests"]:
        raise BenchError("Not one request was answered")
    if found["answers"] != found["requests"]:
        raise BenchError("This wrk keeps its times in another way than wrk 4.1")
    return Load(
        requests=found["requests"],
        duration=found["duration"] / 1e6,
        p50=found["p50"] / 1e3,
        p99=found["p99"] / 1e3,
        longest=found["max"] / 1e3,
        answers_p50=found["answers_p50"] / 1e3,
        answers_p99=found["answers_p99"] / 1e3,
        refused=found["status"],
        errors=found["connect"] + found["read"] + found["write"] + found["timeout"],
    )


class Loading:
    """wrk under way."""

    def __init__(self, cores: Cores, port: int, bodies: Sequence[str], seconds: float) -> None:
        self._seconds = seconds
        command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:.0f}s", f"--timeout={TIMEOUT}s"]
        command += ["-s", str(HERE / "post.lua"), f"http://127.0.0.1:{port}", "--", *bodies]
        self._process = subprocess.Popen(
            cores.on_load(command),
            env=os.environ | {"CONNECTIONS": str(CONNECTIONS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def result(self) -> Load:
        """Wait for its end.

        :raises BenchError: it did not end, or has no result.
        """
        try:
            output, _ = self._process.communicate(timeout=self._seconds + 30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise BenchError("wrk did not end") from None
        return parse(output)


def load(cores: Cores, port: int, bodies: Sequence[str], seconds: float) -> Load:
    """POST these bodies in turn, on 64 kept connections, for so many whole seconds.

    :raises BenchError: it has no result.
    """
    return Loading(cores, port, bodies, seconds).result()


def fill(cores: Cores, port: int, task: str, wanted: int, *, batch: bool, within: float) -> int:
    """POST a task until so many were accepted, and a few beyond.

    :param batch: a thousand in a request.
    :param within: seconds.
    :returns: how many were, at least: those on their way at the end come beside.
    :raises BenchError: one was refused, or it took too long.
    """
    each = BATCH if batch and wanted >= BATCH else 1
    path = "/api/tasks" if each == 1 else "/api/tasks/batch"
    connections = min(wanted, FILLING) if each == 1 else 1
    command = ["wrk", "-t1", f"-c{connections}", f"-d{within:.0f}s", "-s", str(HERE / "fill.lua")]
    command += [f"http://127.0.0.1:{port}", "--", path, task, str(each), str(wanted)]
    process = subprocess.Popen(cores.on_load(command), stdout=subprocess.PIPE, text=True)
    try:
        return _filled(process, wanted)
    finally:
        # wrk sleeps until its time is over, though it has nothing left to do.
        process.send_signal(signal.SIGINT)
        process.communicate()


def _filled(process: subprocess.Popen[str], wanted: int) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found = json.loads(line)
            if found["refused"]:
                raise BenchError(f"A task was answered {found['status']} after {found['accepted']:,}")
            return int(found["accepted"])
    raise BenchError(f"It had not accepted {wanted:,} tasks when the time for that was over")
