"""A store in a file, for tests."""

from pathlib import Path

from asynctask import sqlite
from asynctask.metrics import Metrics
from asynctask.sqlitefile import Place
from asynctask.store import SqlStore
from tests.store_contract import StoreTestCase


class OnFile(StoreTestCase):
    """In a file of the test's own."""

    def open_store(self) -> SqlStore:
        if not hasattr(self, "path"):
            self.path = Path(self.mktemp()).absolute()
            self.patch(sqlite, "LONGEST", 60.0)  # else a busy machine has reads given up
        return SqlStore(Place(self.path, "off"), self.turns, metrics=Metrics(), busy=0.01, try_again=0.01)
