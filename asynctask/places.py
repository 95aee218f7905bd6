"""The free seats: where the front door and the runner meet.

The front door asks for a seat before the commit that accepts a task; the runner takes it over with the
task; a failed commit gives it back.
"""


class Places:
    """How many attempts may still begin here, and whether any may.

    :param seats: attempts at once on the reactor; 0 only accepts.
    """

    def __init__(self, seats: int) -> None:
        self.free = seats
        self.draining = False
        self._waiting: dict[str, bool] = {}

    def take(self, kind: str) -> bool:
        """Take a seat for a new task, unless an older one of its kind waits for one."""
        if self.draining or self.free <= 0 or self.waits(kind):
            return False
        self.free -= 1
        return True

    def give_back(self, seats: int = 1) -> None:
        """A seat is free again."""
        self.free += seats

    def waits(self, kind: str) -> bool:
        """Whether due tasks of this kind may wait in the store; before the first look they may."""
        return self._waiting.get(kind, True)

    def note_waiting(self, kind: str, waiting: bool) -> None:
        """What the store knows of due tasks of this kind."""
        self._waiting[kind] = waiting
