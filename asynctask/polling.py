"""The process's looks at a shared database: what others have done, and hints to them.

In a thread of its own with a connection of its own, so that no transaction holds it up.
"""

import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from secrets import token_hex
from time import monotonic
from typing import Any, Final

import psycopg
from msgspec import Struct
from twisted.logger import Logger

from asynctask.pgserver import PATIENCE, STAY, TRY_AGAIN, Server, connect
from asynctask.postgres import BRIEFLY, Postgres
from asynctask.wire import in_a_line

log = Logger(namespace="asynctask.store")

CHANNEL: Final = "asynctask"

POLL: Final = 1.0
"""Seconds between two looks where nobody has given a hint."""

HINTS: Final = 0.05
"""Seconds between two hints to others: a NOTIFY takes a lock at its commit."""

LISTEN_AGAIN: Final = 10.0
"""Seconds between two tries to listen, each of which may keep the looks for as long as it waits."""


class Seen(Struct, frozen=True):
    """What a look has found.

    :ivar processes: those that are alive.
    :ivar polled: whether it was time for a look, not only a hint.
    :ivar due: kinds of which tasks wait that are due.
    :ivar cancelled: tasks of this process that are to end, each with its attempt.
    :ivar seq: the number of the last commit that changed tasks.
    """

    processes: frozenset[str]
    polled: bool
    due: frozenset[str]
    cancelled: frozenset[tuple[str, int]]
    seq: int


_PROCESSES: Final = b"SELECT id FROM process"
DUE_KINDS: Final = (
    b"SELECT kinds.kind FROM unnest(%s::text[]) AS kinds (kind), LATERAL (SELECT FROM task "
    b"WHERE task.kind = kinds.kind AND task.status IN ('accepted', 'retrying') AND task.run_at <= %s "
    b"ORDER BY task.run_at, task.task_id LIMIT 1) AS due"
)
"""In the order of its index: to find any, the server would read all that wait."""

TO_END: Final = (
    b"SELECT task_id, attempt FROM task WHERE owner = %s AND status = 'running' AND cancel_requested"
)
LAST_SEQ: Final = b"SELECT coalesce(max(seq), 0) FROM event"


class Poller:
    """The thread.

    :param kinds: what this process runs.
    :param now: wall time, seconds since the epoch.
    :param seen: told, in this thread, of what each look has found.
    """

    def __init__(
        self,
        server: Server,
        database: Postgres,
        kinds: Sequence[str],
        now: Callable[[], float],
        seen: Callable[[Seen], object],
    ) -> None:
        self._server = server
        self._database = database
        self._kinds = list(kinds)
        self._now = now
        self._seen = seen
        self._ending = False
        self._wanted = False
        self._hinted = 0.0
        self._deaf = self._failing = False
        self._listening: psycopg.Connection[Any] | None = None
        self._cutoff = database.cutoffs.new()
        self._listening_cutoff = database.cutoffs.new()
        self._name = token_hex(8)
        # Nothing of it needs to be on disk.
        self._hint = (
            "BEGIN; SET LOCAL synchronous_commit = off; "
            f"SELECT pg_notify('{CHANNEL}', '{self._name}'); COMMIT"
        ).encode()
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="asynctask-polling", daemon=True)
        self._thread.start()

    def hint(self) -> None:
        """Let the others know that something has changed, soon."""
        if not self._wanted:
            self._wanted = True
            self._ring()

    def end(self) -> None:
        """Look no more."""
        self._ending = True
        self._ring()

    def join(self) -> None:
        """Wait for the end of the thread, but not for a server that hangs."""
        self._thread.join(2 * PATIENCE)

    def _ring(self) -> None:
        with suppress(OSError):  # it has been rung often enough
            self._rope.send(b"\0")

    def _run(self) -> None:
        while not self._ending:
            try:
                with connect(self._server.url, autocommit=True) as looking:
                    self._cutoff.hold(looking)
                    self._watch(looking)
            except (psycopg.Error, OSError) as error:  # such as: no more descriptors
                if not self._failing:
                    log.warn("Store does not tell what others do", error=in_a_line(error))
                self._failing = True
                self._wait([], TRY_AGAIN)
            finally:
                self._stop_listening()
                self._cutoff.let_go()

    def _watch(self, looking: "psycopg.Connection[Any]") -> None:
        with self._cutoff.waiting():
            looking.execute(STAY)
        listen = poll = look = monotonic()
        while not self._ending:
            now = monotonic()
            if self._wanted and now >= self._hinted + HINTS:
                self._wanted = False
                self._hinted = now
                with self._cutoff.waiting():
                    looking.execute(self._hint)
            if now >= look:
                with self._cutoff.waiting():
                    self._look(looking, polled=now >= poll)
                if self._failing:
                    self._failing = False
                    log.info("Store tells again what others do")
                if now >= poll:
                    poll = now + POLL
                look = poll
            if self._listening is None and now >= listen:
                self._listen()
                listen = now + LISTEN_AGAIN
            pause = look - monotonic()
            if self._wanted:
                pause = min(pause, self._hinted + HINTS - now)
            if self._is_called(max(0.0, pause)):
                look = 0.0

    def _listen(self) -> None:
        """Be told of hints from now on. Where that cannot be, others are heard of by the looks alone."""
        try:
            self._listening = connect(self._server.listen or self._server.url, autocommit=True)
            self._listening_cutoff.hold(self._listening)
            with self._listening_cutoff.waiting():  # a pooler may have no connection to a server for us
                self._listening.execute(f"LISTEN {CHANNEL}".encode())
                self._listening.execute(STAY)
            if self._deaf:
                self._deaf = False
                log.info("Store can be listened to again")
        except psycopg.errors.FeatureNotSupported:
            log.info("Store has no LISTEN; others are heard of within {seconds} s", seconds=POLL)
        except (psycopg.Error, OSError) as error:
            self._note_deaf(error)

    def _note_deaf(self, error: Exception) -> None:
        self._stop_listening()
        if not self._deaf:
            self._deaf = True
            log.warn(
                "Store cannot be listened to; others are heard of within {seconds} s",
                seconds=POLL,
                error=in_a_line(error),
            )

    def _stop_listening(self) -> None:
        listening, self._listening = self._listening, None
        self._listening_cutoff.let_go()
        if listening is not None:
            listening.close()

    def _is_called(self, seconds: float) -> bool:
        """Wait for so long; tells whether somebody has given a hint."""
        if self._listening is None:
            self._wait([], seconds)
            return False
        try:
            return self._wait([self._listening], seconds) and self._notified(self._listening)
        except (psycopg.Error, OSError) as error:
            self._note_deaf(error)
            return True

    def _wait(self, connections: Sequence["psycopg.Connection[Any]"], seconds: float) -> bool:
        """Wait for the database, or for our own bell; tells whether the database has something."""
        looked_at = [self._bell.fileno(), *(connection.fileno() for connection in connections)]
        waiting = select.poll()  # which needs no descriptor of its own: there may be none left
        for descriptor in looked_at:
            waiting.register(descriptor, select.POLLIN)
        ready = {descriptor for descriptor, _ in waiting.poll(ceil(seconds * 1_000))}
        if looked_at[0] in ready:
            self._bell.recv(4096)
        return not ready.isdisjoint(looked_at[1:])

    def _notified(self, listening: "psycopg.Connection[Any]") -> bool:
        """Whether somebody else has given a hint."""
        listening.pgconn.consume_input()
        found = False
        while (notify := listening.pgconn.notifies()) is not None:
            found |= notify.extra != self._name.encode()
        if listening.pgconn.status != psycopg.pq.ConnStatus.OK:
            raise psycopg.OperationalError("the connection was lost")
        return found

    def _look(self, looking: "psycopg.Connection[Any]", *, polled: bool) -> None:
        owner = self._database.owner
        with looking.transaction():
            looking.execute(BRIEFLY.encode())
            processes = looking.execute(_PROCESSES).fetchall()
            due = looking.execute(DUE_KINDS, (self._kinds, self._now())).fetchall()
            cancelled = looking.execute(TO_END, (owner,)).fetchall()
            (last,) = looking.execute(LAST_SEQ).fetchone() or (0,)
        self._seen(
            Seen(
                frozenset(one for (one,) in processes),
                polled,
                frozenset(kind for (kind,) in due),
                frozenset((task_id, attempt) for task_id, attempt in cancelled),
                last,
            )
        )
