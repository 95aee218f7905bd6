"""A server that does not answer, and threads and descriptors that are not to be had."""

import socket
import threading
from collections.abc import Collection
from errno import EMFILE
from functools import partial
from typing import Any

import psycopg

from asynctask import cutoff, heartbeat, polling
from asynctask.model import (
    Task,
)
from asynctask.pgserver import Server, connect
from asynctask.store import SqlStore
from tests import postgres
from tests.fault_case import PATIENCE, FaultTestCase
from tests.store_contract import NOW
from tests.test_postgres import BothOpen


class Deaf(BothOpen, FaultTestCase):
    """The server that would tell of hints cannot be had."""

    def open_store(self) -> SqlStore:
        store = super().open_store()
        if hasattr(self, "store"):  # the first one hears
            place = Server(postgres.url_of(self.database), listen="host=127.0.0.1 port=1")
            store._place = store._database._server = place  # type: ignore[attr-defined]
        return store

    def test_what_others_do_is_seen_all_the_same(self) -> None:
        told: list[Task] = []
        self.other.cancelling = told.extend
        self.add(self.new())
        [task] = self.wait(self.other.claim("simulate", 9, NOW)).tasks
        self.wait(self.store.cancel(task.task_id, NOW))
        self.until(lambda: told)
        self.assertEqual(told[0].task_id, task.task_id)


class Mute:
    """A connection to a pooler that has none to the server for us."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self._wire, self._other_end = socket.socketpair()
        self._wire.settimeout(PATIENCE)

    def fileno(self) -> int:
        """Of its socket."""
        return self._wire.fileno()

    def execute(self, _statement: bytes) -> None:
        """Wait for an answer that does not come."""
        self.asked.set()
        self._wire.recv(1)
        raise psycopg.OperationalError("the connection was lost")

    def close(self) -> None:
        """Give up."""
        self._wire.close()
        self._other_end.close()


class NoAnswer(FaultTestCase):
    """Who is asked for hints does not answer."""

    def test_looks_begin_before_and_go_on_after_it_is_cut_off(self) -> None:
        self.add(self.new())
        mute, listen = Mute(), "host=127.0.0.1 port=1"
        self.patch(
            polling, "connect", lambda url, **named: mute if url == listen else connect(url, **named)
        )
        self.patch(polling, "POLL", 0.01)
        store = SqlStore(Server(postgres.url_of(self.database), listen), self.turns)
        due: list[Collection[str]] = []
        store.due = due.append
        store.open([], NOW)
        self.addCleanup(lambda: self.wait(store.close()))
        self.until(mute.asked.is_set)
        self.turns.catch_up()
        self.assertEqual(due, [["simulate"]])
        with self.logged() as lines:
            patched = self.patch(cutoff, "LONGEST", 0.1)
            self.until(lambda: any(line.startswith("Store cannot be listened to") for line in lines))
            patched.restore()
        self.assertIn("Store takes too long, and was cut off", lines)
        self.until(lambda: len(due) > 3)


class Descriptors(FaultTestCase):
    """The threads beside the writer outlive a want of descriptors."""

    def test_they_try_again(self) -> None:
        refused: list[Any] = []
        for module in (heartbeat, polling):
            self.patch(module, "TRY_AGAIN", 0.01)
            self.patch(module, "connect", partial(self.refuse, module, module.connect, refused))
        store = self.open()
        self.addCleanup(lambda: self.wait(store.close()))
        sharing: Any = store._sharing
        self.until(lambda: len(refused) == 2)
        for thread in (sharing._poller._thread, sharing._heartbeat._thread):
            thread.join(0.1)
            self.assertTrue(thread.is_alive())

    def refuse(self, module: Any, connect: Any, refused: list[Any], *args: Any, **named: Any) -> Any:
        """Once."""
        if module not in refused:
            refused.append(module)
            raise OSError(EMFILE, "Too many open files")
        return connect(*args, **named)
