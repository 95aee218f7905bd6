"""`SqlStore` on PostgreSQL keeps to the same contract as on SQLite."""

from asynctask.postgres import Server
from asynctask.store import SqlStore
from tests import postgres
from tests.store_changes_contract import ChangesContract
from tests.store_contract import StoreContract, StoreTestCase


class OnServer(StoreTestCase):
    """In a database of the test's own."""

    def open_store(self) -> SqlStore:
        if not hasattr(self, "database"):
            self.database = postgres.new_database()
            self.addCleanup(postgres.drop, self.database)
        return SqlStore(Server(postgres.url_of(self.database)), self.turns, try_again=0.01)


class PostgresStore(StoreContract, ChangesContract, OnServer):
    """On a server."""
