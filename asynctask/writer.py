"""The one thread that writes: it takes all that waits, in one transaction, and answers all at once.

Into a file it writes again when these answers have been given, so that what they bring goes into the next
transaction: few large ones cost less than many small ones, and keep nobody waiting for longer. A database
server works while they are given. A reactor that a handler holds up does not hold up the writer.

What it keeps to when the database fails: a COMMIT that failed may still be on disk, so nobody is answered
before a small probe transaction has been committed over it. What clients asked for is then refused, and
never runs; how attempts ended is kept, and written as soon as there is a way.
"""

import threading
from collections.abc import Callable, Iterable
from math import inf
from time import monotonic
from typing import Any, Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from asynctask.backlog import Backlog
from asynctask.batches import End
from asynctask.database import Database
from asynctask.hold import Hold
from asynctask.indoubt import InDoubt
from asynctask.model import UNFIT, News, Status, Task, lose, reject
from asynctask.outage import Outage
from asynctask.patient import Patient
from asynctask.problems import Unavailable
from asynctask.readers import NO_ANSWER
from asynctask.replies import Replies
from asynctask.works import (
    CLAIM,
    NOTHING,
    OWN_FAULT,
    Add,
    Call,
    Committed,
    Save,
    Work,
    collided,
    refusal,
    transactions,
    why,
)

log = Logger(namespace="asynctask.store")

TRY_AGAIN: Final = 0.5
"""Seconds between two tries to reach a database that failed."""

LATE: Final = 0.8
"""Seconds that somebody may have waited for a shared database until a transaction takes his work: later it
is refused, while there is time for an answer."""

ENOUGH: Final = 1.0
"""Seconds after which a transaction begins no further call but claims, counted since its first work came: a
distant server takes its time for each, and all would be cut off together. It is divided by the number of
transactions that are left of a batch, so that the last one comes in time too."""

REPEATS: Final = 3
"""How often a transaction that collided with another process's is begun again."""

T = TypeVar("T")


class Writer:
    """Owns the connection that writes, on a thread of its own.

    :param connection: open, and from now on the writer's alone.
    :param from_thread: runs a function in the reactor's thread.
    :param try_again: seconds between two tries to reach a database that failed.
    :param stored: told, in the writer's thread, how many changes a transaction made, and its seconds.
    :param published: told, in the reactor's, of what a transaction changed, before anybody is answered.
    :param returned: told, in the reactor's, after a COMMIT that failed, of what it has changed after all;
        it may have changed more, where there was nothing to tell.
    :param seq: the number of the last transaction that changed something.
    :param now: wall time, seconds since the epoch.
    :ivar healthy: whether the database took the last transaction.
    :ivar is_behind: see `Backlog`; ``is_held``: whether a transaction is held up.
    """

    def __init__(
        self,
        connection: Connection,
        database: Database,
        from_thread: Callable[..., object],
        *,
        try_again: float,
        stored: Callable[[int, float], object],
        published: Callable[[int, list[News]], object],
        returned: Callable[[list[News]], object],
        seq: int,
        now: Callable[[], float],
    ) -> None:
        self.healthy = True
        self._seq = seq
        self._hold = Hold()
        self.is_held = self._hold.lasts
        self._pause = self._try_again = try_again
        self._outage = Outage()
        self._stored = stored
        self._published, self._returned = published, returned
        self._came_back: list[News] | None = None
        self._now = now
        self._connection: Connection | None = connection
        self._database = database
        self._from_thread = from_thread
        self._backlog = Backlog(patient=not database.shared)
        self.is_behind = self._backlog.is_behind
        self._stage = ""
        self._told: list[News] = []
        self._replies = Replies(from_thread)
        self._in_doubt = InDoubt(database)
        self._closed: Deferred[None] = Deferred()
        self._thread = threading.Thread(target=self._run, name="asynctask-writer", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it takes what somebody asks for: it is healthy, and was not closed."""
        return self.healthy and not self._backlog.closing

    def add(self, rows: list[tuple[Any, ...]], news: list[News], size: int) -> Deferred[None]:
        """Insert tasks in the next transaction.

        :param size: about how many bytes they are.
        :returns: fires after commit and sync; whoever no longer waits for it cancels nothing.
        :raises Unavailable: the store fails, or too much waits already.
        """
        if not (self.is_open and self._backlog.has_room(size)) or self._backlog.is_late():
            raise refusal()
        done = Patient()
        self._put(Add(rows, news, size, done), size)
        return done

    def save(self, task: Task, at: float) -> Deferred[Status | None]:
        """Write how an attempt ended, sooner or later; without room for its result, that it runs again."""
        done: Deferred[Status | None] = Deferred()
        kept = 0 if task.result is None else len(task.result)
        if not self._backlog.has_room_for_result(kept):
            log.warn("Too many results wait for the store; a task is to run again", task_id=task.task_id)
            task = lose(task, at)
            kept = 0
        self._put(Save(End(task, at), done), kept=kept)
        return done

    def call(
        self, run: Callable[[Connection, list[News]], T], size: int = 0, order: str = ""
    ) -> Deferred[T]:
        """Do something else in the next transaction.

        :param size: about how many bytes it adds.
        :param order: what it locks.
        :raises Unavailable: the store fails, or too much waits already.
        """
        if not self.is_open or (size and not self._backlog.has_room(size)):
            raise Unavailable(NO_ANSWER)
        done = Patient()
        self._put(Call(run, order, done, size), size)
        return done

    def close(self) -> Deferred[None]:
        """Write what waits, with one more try if the database fails, and end the thread."""
        self._hand_over()
        self._backlog.close()
        return self._closed

    def _put(self, work: Work, size: int = 0, kept: int = 0) -> None:
        if self._backlog.put(work, size, kept):
            self._from_thread(self._hand_over)

    def _hand_over(self) -> None:
        self._backlog.hand_over()
        if not self.healthy:
            self._refuse(self._backlog.take_asked())

    def _run(self) -> None:
        while self._backlog.wait() if self.healthy else self._pauses():
            if self.healthy or self._recovers():
                self._write_all(self._backlog.take())
        if not self.healthy and self._recovers():
            while self.healthy and self._backlog.waits:
                self._write_all(self._backlog.take())
        self._refuse(self._backlog.take_asked())
        if self._backlog.ends:
            log.warn("Store has not taken how tasks ended; they will run again", tasks=self._backlog.ends)
        self._database.leave(self._connection)
        self._disconnect()
        self._replies.send((self._closed.callback, None))

    def _pauses(self) -> bool:
        """Wait for the next try at a failed database; tell whether to go on."""
        pause, self._pause = self._pause, self._try_again
        return self._backlog.pause(pause)

    def _write_all(self, batch: list[Work]) -> None:
        if not (batch or self._database.has_gone()):  # of which a commit of nothing lets everybody know
            return
        parts = transactions(batch, shared=self._database.shared)
        for left, some in zip(range(len(parts), 0, -1), parts, strict=True):
            # With more time for the first, those that follow would come too late each time.
            self._write(self._in_time(some), ENOUGH / left)
        self._database.waiting_since(0.0)
        self._hold.is_over()

    def _in_time(self, batch: list[Work]) -> list[Work]:
        """Refuse those who have waited for too long already: their answer would come too late."""
        latest = monotonic() - LATE
        if self._database.shared and any(work.at < latest for work in batch):
            self._refuse([work for work in batch if work.at < latest])
            batch = [work for work in batch if work.at >= latest]
        return batch

    def _write(self, batch: list[Work], within: float = ENOUGH, repeats: int = REPEATS) -> None:
        """Do a batch in one transaction, and answer; or refuse it, where there is no connection any more.

        :param within: seconds since the first of them has waited, after which no other call is begun.
        :param repeats: times that it may be begun again.
        """
        if self._connection is None:  # what was done before has lost it
            self._refuse(batch)
            return
        began = monotonic()
        self._hold.begins(began)
        first = min([began, *[work.at for work in batch]])
        self._database.waiting_since(first)
        # Who has waited long for his turn is no reason to refuse the others at once.
        enough = max(first + within, began + ENOUGH - LATE) if self._database.shared else inf
        try:
            results, committed = self._transact(batch, enough, asks=repeats < REPEATS)
        except Exception as error:
            self._roll_back()
            if repeats and collided(error):
                self._write(batch, within, repeats - 1)
            elif isinstance(error, DBAPIError) and not isinstance(error, OWN_FAULT):
                self._failed(batch, error)
            elif len(batch) > 1:
                for work in batch:  # one of them is to blame: the others must not suffer for it
                    self._write([work])
            else:
                self._blame(batch[0], error)
        else:
            changes = sum([len(work.rows) if type(work) is Add else 1 for work in batch])
            self._stored(changes, monotonic() - began)
            self._answer(zip(batch, results, strict=True), committed)
            self._keep_log_short()

    def _blame(self, work: Work, error: Exception) -> None:
        """It cannot be done. An attempt must end all the same: its task would be running for ever."""
        if not isinstance(error, DBAPIError):
            self._answer([(work, Failure(error))], NOTHING)
        elif self._is_of_no_row(error) and isinstance(work, Call) and self._stage == "write":
            # What one call lacks is no reason to refuse the others.
            self._tell("Store refuses a statement", error, self._stage)
            self._answer([(work, Failure(refusal()))], NOTHING)
        elif self._is_of_no_row(error):
            self._failed([work], error)
        elif isinstance(work, Save) and work.end.task.error is not UNFIT:
            log.warn("Store cannot take how a task ended", task_id=work.end.task.task_id, error=why(error))
            work.end = work.end._replace(task=reject(work.end.task, work.end.at))
            self._write([work])
        else:
            self._answer([(work, Failure(error))], NOTHING)

    def _is_of_no_row(self, error: DBAPIError) -> bool:
        """Whether it is about the database itself, and may pass: a right is missing, or a number was given
        to an event that another one has."""
        is_of_event = isinstance(error, IntegrityError) and self._stage == "commit"
        return self._database.shared and (is_of_event or isinstance(error, ProgrammingError))

    def _transact(self, batch: list[Work], enough: float, asks: bool) -> tuple[list[Any], Committed]:
        """Do the batch, which is `in_turn`, in one transaction; the results, and what it changed.

        :param enough: when the calls have taken the time; those that are left are refused, but for claims,
            of which there are only a few.
        :param asks: whether to ask how the tasks are whose attempts have ended.
        """
        connection = self._connected()
        self._stage = "begin"
        connection.begin()
        self._stage = "write"
        rows: list[tuple[Any, ...]] = []
        news: list[News] = []
        saves: list[End] = []
        calls: list[Call] = []
        for work in batch:
            if type(work) is Add:
                rows += work.rows
                news += work.news
            elif type(work) is Save:
                saves.append(work.end)
            elif type(work) is Call:
                calls.append(work)
        if rows:
            self._database.add(connection, rows)
        results: list[Any] = [None] * (len(batch) - len(saves) - len(calls))
        end = self._database.end if asks else self._database.end_as_supposed
        results += end(connection, saves, news)
        for call in calls:
            begins = monotonic() <= enough or call.order.startswith(CLAIM)
            results.append(call.run(connection, news) if begins else Failure(refusal()))
        self._stage, self._told = "commit", news
        seq = self._database.commit(connection, news, self._now())
        self._seq = seq or self._seq
        return results, Committed(seq, news)

    def _failed(self, batch: list[Work], error: DBAPIError) -> None:
        """The database failed: make sure of what it kept, then answer."""
        # An end that is refused again, though a small write is not, waits for its next try.
        again = any(isinstance(work, Save) and work.end.again for work in batch)
        goes_on = self._database.shared or again
        is_news = (self._outage.failed if goes_on else self._outage.is_news)(error, monotonic())
        if is_news or not goes_on:
            log.warn("Store failed", stage=self._stage, error=why(error))
        at_commit = self._stage == "commit" and self._database.in_doubt
        if at_commit:
            self._came_back = self._came_back or []
            self._in_doubt.note_starts(self._told)
        if self._database.shared:
            # What came back after all is no longer ours to remove: others may run it already.
            self.healthy = False
            self._disconnect()
            self._pause = self._try_again if self._outage.fails_again else 0.0
            self._refuse(batch, unknown=at_commit)
            self._refuse(self._backlog.take_asked())
            return
        if at_commit:
            self._in_doubt.note_tasks(batch)
        known = self._stage != "begin" and self._probe()
        if not known or again:
            self.healthy = False
            self._disconnect()
        # Calls of a commit that came back have taken effect, and those of one without news may have; new
        # tasks were removed.
        others = at_commit and (bool(self._came_back) or not self._told)
        self._refuse(batch, unknown=at_commit and not known, others_unknown=others)
        if known:
            self._tell_what_came_back()

    def _probe(self) -> bool:
        """Make sure that the database writes, and of what failed commits have left."""
        connection = self._connected()
        try:
            connection.begin()
            commits = self._in_doubt.clear_up(connection, self._seq, self._now())
        except Exception as error:
            self._tell("Store still fails", error, "probe")
            self._roll_back()
            return False
        for one in commits:
            self._seq = one.seq or self._seq
            self._answer([], one)
        if self._came_back is not None:
            self._came_back += [news for one in commits for news in one.news]
        return True

    def _tell(self, what: str, error: Exception, stage: str) -> None:
        if self._outage.is_news(error, monotonic()):
            log.warn(what, stage=stage, error=why(error))

    def _tell_what_came_back(self) -> None:
        """When all others have been answered."""
        told, self._came_back = self._came_back, None
        if told is not None:
            self._replies.send((self._returned, told))

    def _recovers(self) -> bool:
        """Try to reach the failed database again; whoever asked meanwhile is refused."""
        self._refuse(self._backlog.take_asked())
        self._database.waiting_since(monotonic())
        try:
            self._connection = self._database.connect()
        except (DBAPIError, OSError) as error:
            self._tell("Store still fails", error, "connect")
            self._database.waiting_since(0.0)
            return False
        self._database.waiting_since(monotonic())
        self.healthy = self._probe() and self._takes_what_waits()
        self._database.waiting_since(0.0)
        if self.healthy:
            self._outage.is_over()
            log.info("Store works again")
            self._tell_what_came_back()
        else:
            self._disconnect()
        return self.healthy

    def _takes_what_waits(self) -> bool:
        """Whether a database that took the probe takes what it has refused, where it has done so before."""
        self._outage.reached(monotonic())
        if not self._outage.lasts or not self._backlog.waits:
            return self._outage.has_held_out(monotonic())
        self._write_all(self._backlog.take())
        return self._connection is not None

    def _refuse(self, batch: list[Work], *, unknown: bool = False, others_unknown: bool = False) -> None:
        """Answer clients that it cannot be done now, and keep how attempts ended for later.

        :param unknown: whether it may have been done all the same; ``others_unknown`` of all but new tasks.
        """
        saves = [work for work in batch if isinstance(work, Save)]
        for work in saves:
            work.end = work.end._replace(again=True)
        self._backlog.put_back(saves)
        refused = [
            (work, Failure(refusal(unknown or (others_unknown and isinstance(work, Call)))))
            for work in batch
            if not isinstance(work, Save)
        ]
        if refused:
            self._answer(refused, NOTHING)

    def _connected(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def _roll_back(self) -> None:
        try:
            self._database.roll_back(self._connected())
        except Exception as error:
            log.warn("Store cannot roll back", error=why(error))

    def _disconnect(self) -> None:
        if self._connection is not None:
            try:
                self._connection.close()
            except DBAPIError as error:
                log.warn("Store cannot be closed", error=why(error))
            self._connection = None

    def _keep_log_short(self) -> None:
        try:
            self._database.keep_log_short(self._connected())
        except Exception as error:
            log.warn("Store cannot shorten its log", error=why(error))

    def _answer(self, answers: Iterable[tuple[Work, Any]], committed: Committed) -> None:
        self._backlog.answering()
        told = [(self._published, committed.seq, committed.news)] if committed.news else []
        given = [(work.done.callback, result) for work, result in answers]
        self._replies.send(*told, *given, (self._backlog.answered,))
