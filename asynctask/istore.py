"""What a store promises to the rest of the service."""

from collections.abc import Callable, Collection, Iterable, Sequence

from msgspec import Struct
from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from asynctask.deliveries import Tried
from asynctask.live import Told
from asynctask.model import News, Progress, Query, Status, Task
from asynctask.recorder import FlightRecorder, Suspect

Hook = Callable[[Sequence[Task]], None]
Published = Callable[[int, Sequence[News]], None]
Due = Callable[[Collection[str]], None]
Lost = Callable[[], None]
Timed = Callable[[float, float], float]
Progressed = Callable[[Task, Progress], None]
Runs = Callable[[str, int], bool]
Watched = Callable[[], Collection[str] | None]
Abandoned = Callable[[], list[FlightRecorder]]
ToCall = Callable[["ToTell"], None]


class Claim(Struct, frozen=True):
    """What a claim found.

    :ivar more: whether others may be due already.
    :ivar next_due: when the next one that waits is due, seconds since the epoch; None if none waits.
    :ivar full: whether as many run as may in all processes; the end of one is worth another look.
    :ivar orphans: whether an earlier process may have left more.
    :ivar left: tasks of processes that are gone, as this has left them: ended, or about to go on.
    """

    tasks: list[Task]
    more: bool
    next_due: float | None
    orphans: bool
    full: bool = False
    left: Sequence[Task] = ()


class Key(Struct, frozen=True):
    """What makes a POST safe to repeat: kept with its answer until ``expires_at``."""

    key: str
    digest: str
    answer: str
    expires_at: float


class ToTell(Struct, frozen=True, gc=False):
    """An outcome that somebody is to be told: the end of a task by this attempt.

    :ivar tries: how often it was tried to, in vain.
    """

    task_id: str
    attempt: int
    url: str
    tries: int = 0


class Dues(Struct, frozen=True):
    """What a look for callbacks found.

    :ivar after: where to look on; None at the end of those that are due.
    :ivar next_due: when the first of the others is due, seconds since the epoch; None if there is none.
    :ivar pending: how many there are in all, due or not; told with the first look only.
    """

    found: list[ToTell]
    after: tuple[float, str] | None
    next_due: float | None
    pending: int | None


class IOutbox(Interface):
    """Keeps what is to be told of tasks that have ended. `Unavailable` is how it fails."""

    to_call: ToCall = Attribute("Called with an outcome that somebody is to be told, after its commit.")
    secret: str = Attribute("Signs callbacks: drawn once, and kept. Known once the store is open.")
    healthy: bool = Attribute("Whether what becomes of a callback can be kept now.")

    def due(now: float, after: tuple[float, str] | None, limit: int) -> Deferred[Dues]:
        """Callbacks that are due, those due first, behind ``after``."""

    def answered() -> Deferred[list[str]]:
        """URLs to which outcomes were delivered, of the tasks that ended last."""

    def outcome(due: ToTell, now: float) -> Deferred[Task | None]:
        """The task with all that it has; None if this outcome is not to be told now, or not any more."""

    def give_back(task: Task, now: float) -> Deferred[None]:
        """Let this outcome be told by the next who looks: it was not tried."""

    def keep(tried: Tried) -> Deferred[bool]:
        """Keep what a try has come to; tells whether this outcome was still to be told."""


class Known(Struct, frozen=True):
    """What was answered to an earlier POST with the same key."""

    digest: str
    answer: str


class IStore(Interface):
    """Keeps tasks. What it answers is committed and synced; `Unavailable` is how it fails."""

    started: Hook = Attribute(
        "Called with the tasks that a commit made this process run, whoever still waits for it."
    )
    waiting: Hook = Attribute("Called with the tasks that a commit left waiting.")
    cancelling: Hook = Attribute(
        "Called with the running tasks whose end a commit has asked for; of a task maybe more than once."
    )
    published: Published = Attribute(
        "Called after each commit that changed tasks, in their order, with its number and what changed, "
        "before those who wait for the commit are answered. A number that does not follow on the last "
        "tells that others are to be read by `events`."
    )
    progressed: Progressed = Attribute("Called with what a running attempt tells of itself.")
    told: Told = Attribute(
        "Called with a task's id to learn which attempt of it runs here, and what that has told last."
    )
    runs: Runs = Attribute(
        "Called with a task's id and an attempt of it to learn whether that is under way here."
    )
    watched: Watched = Attribute("Called to learn which tasks are followed here: None for all of them.")
    epoch: str = Attribute("Which database this is: numbers of another one mean nothing here.")
    seq: int = Attribute("The number of the last commit that changed tasks, when it was opened.")
    newest: str | None = Attribute("The greatest id of a task, when it was opened.")
    due: Due = Attribute("Called with kinds of which another process may have left tasks that are due.")
    gone: Callable[[], object] = Attribute(
        "Called when other processes are gone: what they were about to tell may be due."
    )
    lost: Lost = Attribute(
        "Called when the other processes have taken this one for dead, and may run its tasks."
    )
    timed: Timed = Attribute(
        "Called now and then with the time of the database that processes share, and with this machine's; "
        "tells by how much the time is another one now."
    )
    abandoned: Abandoned = Attribute(
        "Called to learn whom processes died in that are gone: their flight recorders, to be closed."
    )
    followed: Callable[[], bool] = Attribute("Tells whether anybody wants to hear of changes.")
    outbox: IOutbox = Attribute("What is to be told of tasks that have ended.")
    healthy: bool = Attribute("Whether tasks can be stored now.")
    unfinished: int = Attribute("How many tasks have not ended, those on their way here included.")

    def open(
        suspects: Iterable[Suspect],
        now: float,
        kinds: Collection[str],
        seated: Collection[str] | None = None,
    ) -> dict[str, int]:
        """Open, and charge the tasks in which the last process died.

        :param suspects: attempts that were at work when it did.
        :param now: seconds since the epoch.
        :param kinds: those that have a handler here.
        :param seated: those of them that have seats here too, None for all: what was left running of others
            is to go on elsewhere, or later.
        :returns: for each kind that is not among ``kinds``, how many of its tasks have not ended.
        :raises StartError: it cannot be opened.
        """

    def close() -> Deferred[None]:
        """Write what waits, and let go; whoever asks for anything from now on is refused."""

    def is_behind() -> bool:
        """Whether so many ends of attempts are still to be written that no more should begin."""

    def add(waiting: Sequence[Task], starting: Sequence[Task]) -> Deferred[None]:
        """Keep accepted tasks, all or none, and claim those that start at once by the same commit.

        :raises Unavailable: at once, where there is no hope.
        """

    def add_once(
        waiting: Sequence[Task], starting: Sequence[Task], key: Key, now: float
    ) -> Deferred[Known | None]:
        """The same, unless the key is known: then nothing is kept, and what is known is the answer.

        Without tasks it only tells what is known.
        """

    def claim(kind: str, limit: int, now: float, total: int | None) -> Deferred[Claim]:
        """Take up to ``limit`` tasks of a kind: those an earlier process left, and those due.

        :param total: how many of the kind may run in all processes that share the store.
        """

    def report(task: Task, progress: Progress) -> None:
        """A running attempt tells how far it is, which `told` says from now on."""

    def end(task: Task, now: float) -> Deferred[Status | None]:
        """Write how an attempt ended: fires with the status that the task has now.

        That is None if the attempt was given up before, and `cancelled` instead of `retrying` if
        that was asked for meanwhile.

        :param task: as it is after the attempt.
        """

    def cancel(task_id: str, now: float) -> Deferred[Task | None]:
        """Ask for a task's end; it fails with `InvalidTransition` if it has ended."""

    def retry(task_id: str, now: float) -> Deferred[Task | None]:
        """Let a task begin anew; it fails with `InvalidTransition` unless it failed or was cancelled."""

    def delete(task_id: str) -> Deferred[Task | None]:
        """Forget a task; it fails with `InvalidTransition` unless it has ended."""

    def forget(before: float, now: float) -> Deferred[bool]:
        """Forget for a moment tasks that ended before then, and keys that have expired.

        :returns: whether there may be more.
        """

    def forget_events(before: float, most: int) -> Deferred[bool]:
        """The same of what happened before then, or so many bytes ago."""

    def clock_was_set(before: float, now: float) -> Deferred[None]:
        """The wall clock was set: let what waits for its time wait for as long as it would have.

        :param before: the time that it would be.
        """

    def events(seq: int, limit: int) -> Deferred[Sequence[tuple[int, list[News]]] | None]:
        """What commits changed, from this number on: at most ``limit`` commits, at least one if there is.

        :returns: each with its number; None where that is no longer kept, or not there yet.
        """

    def get(task_id: str) -> Deferred[Task | None]:
        """A task with all that it has."""

    def list(query: Query) -> Deferred[tuple[list[Task], str | None]]:
        """A page of tasks without input, result and history, and the cursor of the next page."""
