"""How much is measured: `FULL` for docs/performance.md, `QUICK` to see in two minutes that it works."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Settings:
    """How much.

    :ivar runs: of each peer, interleaved.
    :ivar seconds: of load that is measured, after ``warm_up`` seconds of the same load.
    :ivar levels: tasks in flight at which a server is measured.
    :ivar idle: seconds over which the CPU of a server is taken that has tasks, but no requests.
    :ivar filling: seconds in which a server must have so many.
    :ivar on_time: tasks whose steps are timed; each has ``on_time_steps``, and they are POSTed over
        ``on_time_over`` seconds, a whole number, so that as many steps are due at any moment.
    :ivar posts: single requests that are timed.
    :ivar scales: of the ramp of ``k6.js``, each once; ``time_scale`` is that of its length.
    :ivar waiting: tasks in the store of a start.
    :ivar peers: those that are measured; None for all that a measurement has.
    """

    runs: int
    seconds: int
    warm_up: int
    levels: tuple[int, ...]
    idle: int
    filling: int
    on_time: int
    on_time_steps: int
    on_time_over: int
    posts: int
    scales: tuple[float, ...]
    time_scale: float
    waiting: int
    peers: tuple[str, ...] | None = None


FULL: Final = Settings(
    runs=5,
    seconds=10,
    warm_up=6,  # the longest task runs 5: from then on as many end as begin
    levels=(1_000, 10_000, 100_000, 1_000_000),
    idle=5,
    filling=400,  # what is left of a waiting task's 600 s is for the measurement
    on_time=50_000,
    on_time_steps=20,
    on_time_over=10,
    posts=500,
    scales=(0.02, 0.05, 1),
    time_scale=1,
    waiting=1_000_000,
)

QUICK: Final = Settings(
    runs=1,
    seconds=1,
    warm_up=1,
    levels=(1_000, 3_000),
    idle=1,
    filling=20,
    on_time=1_000,
    on_time_steps=2,
    on_time_over=1,
    posts=20,
    scales=(0.003,),
    time_scale=0.05,
    waiting=5_000,
    peers=(
        "asynctask",
        "asynctask-memory",
        "go",
        "fastapi",
        "huey",
        "arq-always",
        "asynctask-pg-1",
        "procrastinate",
        "pgqueuer",
    ),
)
