"""The peers: how each is started, what its 202 promises, and what it needs."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / ".bench"
"""Where servers run and their stores lie: beside the code, since a /tmp in memory has nothing to sync."""

GO_PROGRAM: Final = WORK / "go-peer"

BIN: Final = Path(sys.executable).parent
"""The programs that were installed beside this Python."""

PACKAGES: Final = {"go": "golang-go", "redis-server": "redis-server", "wrk": "wrk"}
"""Debian's packages for the programs that pip does not bring."""


@dataclass(frozen=True)
class Site:
    """Where a server runs.

    :ivar folder: its working directory, empty before.
    :ivar port: where it has to listen, on 127.0.0.1.
    :ivar second_port: for a broker.
    :ivar database: URL of the PostgreSQL that it has for itself; empty where it has none.
    """

    folder: Path
    port: int
    second_port: int
    database: str = ""


@dataclass(frozen=True)
class Peer:
    """A program that does the job.

    :ivar promise: what is safe once it has answered 202.
    :ivar commands: starts all that it consists of, in this order.
    :ivar programs: what must be installed.
    :ivar batch: whether it takes a thousand tasks in one request.
    :ivar postgres: whether it has a PostgreSQL server, a new one for each of its lives.
    :ivar prepare: run to their ends before, one after the other, such as what makes its tables.
    :ivar every_core: whether it may use all cores, not only that of the servers.
    :ivar most: tasks in flight beyond which it is not measured; `short_of` says why.
    """

    name: str
    label: str
    promise: str
    commands: Callable[[Site], list[list[str]]]
    programs: tuple[str, ...] = ()
    batch: bool = False
    postgres: bool = False
    prepare: Callable[[Site], list[list[str]]] = lambda _: []
    every_core: bool = False
    most: int = 1_000_000
    short_of: str = ""


ATTEMPTS: Final = 2_000_000
"""At once on the reactor: with a million tasks in flight, those that are POSTed beside them still run."""


def asynctask(store: str, *options: str) -> Callable[[Site], list[list[str]]]:
    """The service with this store, as ``twistd -n`` starts it."""

    def commands(site: Site) -> list[list[str]]:
        command = [str(BIN / "twistd"), "-n", "--pidfile=", "asynctask", "--port", str(site.port)]
        command += ["--store", store, "--tasks", "benchmarks.handlers", "--concurrency", str(ATTEMPTS)]
        return [[*command, *options]]

    return commands


def asynctask_on_postgres(number: int) -> Callable[[Site], list[list[str]]]:
    """So many processes of the service on the site's PostgreSQL, behind one port."""
    processes = ("--processes", str(number)) if number > 1 else ()
    return lambda site: asynctask(site.database, *processes)(site)


def python(module: str) -> Callable[[Site], list[list[str]]]:
    """A web application in Python, on uvicorn."""
    serving = [sys.executable, "-m", "benchmarks.peers.serving", module, "--port"]
    return lambda site: [[*serving, str(site.port)]]


def go(*options: str) -> Callable[[Site], list[list[str]]]:
    """The Go program; `build` must have made it."""
    return lambda site: [[str(GO_PROGRAM), "-port", str(site.port), *options]]


def huey(site: Site) -> list[list[str]]:
    """The worker and the web server."""
    worker = [str(BIN / "huey_consumer"), "benchmarks.peers.fastapi_huey.huey"]
    # Of 1 and 4 threads, and of a def and an async def before the queue, this was the best.
    return [[*worker, "--workers", "4", "--quiet"], *python("fastapi_huey")(site)]


def arq(appendfsync: str) -> Callable[[Site], list[list[str]]]:
    """Redis, the worker and the web server."""

    def commands(site: Site) -> list[list[str]]:
        redis = ["redis-server", "--bind", "127.0.0.1", "--port", str(site.second_port), "--save", ""]
        redis += ["--appendonly", "yes", "--appendfsync", appendfsync, "--loglevel", "warning"]
        worker = [str(BIN / "arq"), "benchmarks.peers.fastapi_arq.WorkerSettings"]
        return [redis, worker, *python("fastapi_arq")(site)]

    return commands


def with_worker(module: str) -> Callable[[Site], list[list[str]]]:
    """A web application in Python, and its worker, which is the same module as a program."""
    worker = [sys.executable, "-m", f"benchmarks.peers.{module}"]
    return lambda site: [worker, *python(module)(site)]


def procrastinate_tables(_: Site) -> list[list[str]]:
    """Its tables."""
    app = "--app=benchmarks.peers.fastapi_procrastinate.queue"
    return [[str(BIN / "procrastinate"), app, "schema", "--apply"]]


def pgqueuer_tables(site: Site) -> list[list[str]]:
    """Its tables, all of them synced."""
    return [[str(BIN / "pgq"), "--pg-dsn", site.database, "install", "--durability", "durable"]]


OURS: Final = "asynctask"
OURS_ON_POSTGRES: Final = "asynctask-pg-1"

IN_POSTGRES: Final = "committed and synced by PostgreSQL: kept through a kill and a power cut"

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer(
            OURS,
            "asynctask",
            "synced to disk (SQLite, FULL): kept through a kill and a power cut",
            asynctask("sqlite:///t.sqlite"),
            batch=True,
        ),
        Peer(
            "asynctask-memory",
            "asynctask, `sqlite://`",
            "in memory: lost when the process ends",
            asynctask("sqlite://"),
            batch=True,
        ),
        Peer(
            "go",
            "Go net/http + goroutine",
            "in memory: lost when the process ends",
            go(),
            programs=("go",),
        ),
        Peer(
            "go-buffered",
            "Go, its log collected for 0.1 s",
            "in memory: lost when the process ends",
            go("-buffered"),
            programs=("go",),
        ),
        Peer(
            "fastapi",
            "FastAPI BackgroundTasks",
            "in memory: lost when the process ends",
            python("fastapi_background"),
            most=100_000,
            short_of="a million would take some 20 GB",
        ),
        Peer(
            "starlette",
            "Starlette + create_task",
            "in memory: lost when the process ends",
            python("starlette_task"),
        ),
        Peer(
            "huey",
            "FastAPI + Huey on SQLite, FULL",
            "synced to disk; taken out of the queue before it runs, so a kill loses what runs",
            huey,
        ),
        Peer(
            "arq-everysec",
            "FastAPI + arq on Redis, appendfsync everysec",
            "in Redis, synced once a second: kept through a kill, a power cut loses up to a second",
            arq("everysec"),
            programs=("redis-server",),
        ),
        Peer(
            "arq-always",
            "FastAPI + arq on Redis, appendfsync always",
            "in Redis, synced: kept through a kill and a power cut",
            arq("always"),
            programs=("redis-server",),
        ),
        Peer(
            OURS_ON_POSTGRES,
            "asynctask on PostgreSQL",
            IN_POSTGRES,
            asynctask_on_postgres(1),
            batch=True,
            postgres=True,
        ),
        *(
            Peer(
                f"asynctask-pg-{number}",
                f"asynctask on PostgreSQL, {number} processes",
                IN_POSTGRES,
                asynctask_on_postgres(number),
                batch=True,
                postgres=True,
                every_core=True,
            )
            for number in (2, 4)
        ),
        Peer(
            "procrastinate",
            "FastAPI + procrastinate",
            IN_POSTGRES,
            with_worker("fastapi_procrastinate"),
            postgres=True,
            prepare=procrastinate_tables,
        ),
        Peer(
            "pgqueuer",
            "FastAPI + pgqueuer",
            IN_POSTGRES,
            with_worker("fastapi_pgqueuer"),
            postgres=True,
            prepare=pgqueuer_tables,
        ),
    )
}


def missing(programs: Iterable[str]) -> str | None:
    """A sentence about the first of these programs that is not installed; None if all are."""
    for program in programs:
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {PACKAGES[program]}"
    return None


def build() -> None:
    """Compile the Go program.

    :raises subprocess.CalledProcessError: it does not compile; the compiler has said why.
    """
    WORK.mkdir(exist_ok=True)
    source = ROOT / "benchmarks" / "peers" / "go"
    subprocess.run(["go", "build", "-o", GO_PROGRAM, "."], cwd=source, check=True)
