"""Who is told by the store; until somebody is, nobody."""

from collections.abc import Callable

from asynctask.istore import Abandoned, Due, Hook, Lost, Progressed, Published, Runs, Timed, Watched
from asynctask.live import Told


class Hooks:
    """The hooks of `asynctask.istore.IStore`, as nobody has set them."""

    def __init__(self) -> None:
        self.started: Hook = _nobody
        self.waiting: Hook = _nobody
        self.cancelling: Hook = _nobody
        self.published: Published = _nobody
        self.progressed: Progressed = _nobody
        self.told: Told = _nobody
        self.runs: Runs = lambda _task_id, _attempt: True
        self.due: Due = _nobody
        self.gone: Callable[[], object] = _nobody
        self.lost: Lost = _nobody
        self.followed: Callable[[], bool] = bool
        self.watched: Watched = tuple
        self.timed: Timed = lambda _theirs, _ours: 0.0
        self.abandoned: Abandoned = list


def _nobody(*_: object) -> None:
    """The hook that nobody has set."""
