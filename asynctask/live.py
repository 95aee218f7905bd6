"""How far running attempts are: whoever runs them knows, and is asked."""

from collections.abc import Callable
from itertools import islice

from msgspec.structs import replace

from asynctask.model import Progress, Task

Told = Callable[[str], tuple[int, Progress] | None]
"""Says of a task, by its id, which attempt runs here, and what that has told last; None where none has."""


class Live:
    """The progress of running attempts here, for those who look at their tasks.

    :ivar remembers: whether what was told since is to be taken by `fresh`.
    """

    def __init__(self, told: Told) -> None:
        self.remembers = False
        self._told = told
        self._since: dict[str, None] = {}

    def note(self, task: Task) -> None:
        """A running attempt has told how far it is."""
        if self.remembers:
            self._since[task.task_id] = None

    def shown(self, task: Task) -> Task:
        """The task with what its attempt has told, if that runs here."""
        told = self._told(task.task_id)
        return replace(task, progress=told[1]) if told is not None and told[0] == task.attempt else task

    def forget(self, task: Task) -> None:
        """An attempt has ended."""
        self._since.pop(task.task_id, None)

    def fresh(self, limit: int) -> list[tuple[str, int, Progress]]:
        """What some attempts have told since the last time: their tasks, their numbers, their progress."""
        found = []
        for task_id in list(islice(self._since, limit)):
            del self._since[task_id]
            if (told := self._told(task_id)) is not None:
                found.append((task_id, *told))
        return found
