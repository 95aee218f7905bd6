"""What a handler is given besides its input."""

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from asynctask.model import Progress, Task

log = Logger(namespace="asynctask.task")


class Context:
    """One attempt, as its handler sees it.

    :ivar clock: the time that the handler waits by.
    :ivar task_id: the task's id.
    :ivar attempt: which attempt this is, from 1.
    """

    __slots__ = ("_report", "attempt", "clock", "task_id")

    def __init__(
        self, task: Task, clock: IReactorTime, report: Callable[[str, int, Progress], None]
    ) -> None:
        self.task_id = task.task_id
        self.attempt = task.attempt
        self.clock = clock
        self._report = report

    def progress(self, step: int, total: int, message: str = "") -> None:
        """Tell how far the attempt is: on the task that GET shows, and in the log."""
        self._report(self.task_id, self.attempt, Progress(step, total, message))
        log.info("Task progress", task_id=self.task_id, step=step, total=total)
