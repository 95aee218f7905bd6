"""Who is told by the store; until somebody is, nobody."""

from collections.abc import Callable, Collection, Sequence

from asynctask.istore import Due, Hook, Lost, Progressed, Published, Watched
from asynctask.model import News, Progress, Task
from asynctask.recorder import FlightRecorder


class Hooks:
    """The hooks of `asynctask.istore.IStore`, as nobody has set them."""

    def __init__(self) -> None:
        self.started: Hook = _nobody_cares
        self.waiting: Hook = _nobody_cares
        self.cancelling: Hook = _nobody_cares
        self.published: Published = _nobody_hears
        self.progressed: Progressed = _nobody_follows
        self.due: Due = _nobody_looks
        self.lost: Lost = _nobody_stops
        self.followed: Callable[[], bool] = bool
        self.watched: Watched = tuple
        self.abandoned: Callable[[], list[FlightRecorder]] = list


def _nobody_cares(_tasks: Sequence[Task]) -> None:
    """The hook that nobody has set."""


def _nobody_looks(_kinds: Collection[str]) -> None:
    """The hook that nobody has set."""


def _nobody_stops() -> None:
    """The hook that nobody has set."""


def _nobody_hears(_seq: int, _news: Sequence[News]) -> None:
    """The hook that nobody has set."""


def _nobody_follows(_task: Task, _progress: Progress) -> None:
    """The hook that nobody has set."""
