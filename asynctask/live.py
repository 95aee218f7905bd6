"""How far running attempts are: kept in memory, written with their ends, or for other processes."""

from itertools import islice

from msgspec.structs import replace

from asynctask.model import Progress, Task
from asynctask.parts import Parts


class Live:
    """The latest progress of each running attempt here.

    :ivar remembers: whether what was told since is to be taken by `fresh`.
    """

    def __init__(self) -> None:
        self.remembers = False
        self._latest: Parts[tuple[int, Progress]] = Parts()
        self._since: dict[str, None] = {}

    def report(self, task: Task, progress: Progress) -> None:
        """A running attempt tells how far it is."""
        self._latest[task.task_id] = (task.attempt, progress)
        if self.remembers:
            self._since[task.task_id] = None

    def shown(self, task: Task) -> Task:
        """The task with what its attempt has told, if that runs here."""
        told = self._latest.get(task.task_id)
        return replace(task, progress=told[1]) if told is not None and told[0] == task.attempt else task

    def forget(self, task: Task) -> None:
        """The attempt has ended."""
        told = self._latest.get(task.task_id)
        if told is not None and told[0] == task.attempt:
            del self._latest[task.task_id]
            self._since.pop(task.task_id, None)

    def fresh(self, limit: int) -> list[tuple[str, int, Progress]]:
        """What some attempts have told since the last time: their tasks, their numbers, their progress."""
        found = []
        for task_id in list(islice(self._since, limit)):
            del self._since[task_id]
            if (told := self._latest.get(task_id)) is not None:
                found.append((task_id, *told))
        return found
