"""The SQLite file: where it is, whether it is sound, who owns it."""

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from asynctask import sqlitefile
from asynctask.problems import StartError
from asynctask.sqlitefile import Lock, Place, check, create, is_missing, is_of_others, parse_url
from asynctask.tables import APPLICATION_ID, SCHEMA

FOLDER = Path("/srv/tasks")

NOBODY: Final = 65_534
"""A user that owns nothing."""

PAGE: Final = 4096
"""Bytes that SQLite reads at once."""


class Urls(SynchronousTestCase):
    """How a store is named."""

    def place(self, url: str) -> Place:
        return parse_url(url, FOLDER)

    def complaint(self, url: str) -> str:
        with self.assertRaises(StartError) as caught:
            self.place(url)
        return str(caught.exception)

    def test_a_relative_path_starts_from_the_folder(self) -> None:
        self.assertEqual(self.place("sqlite:///asynctask.sqlite").path, FOLDER / "asynctask.sqlite")
        self.assertEqual(self.place("sqlite:///data/a.db").path, FOLDER / "data" / "a.db")

    def test_an_absolute_path_has_four_slashes(self) -> None:
        self.assertEqual(self.place("sqlite:////var/lib/a.sqlite").path, Path("/var/lib/a.sqlite"))

    def test_memory_has_no_path(self) -> None:
        for url in ("sqlite://", "sqlite:///:memory:", "sqlite://?synchronous=off"):
            place = self.place(url)
            self.assertIsNone(place.path)
            self.assertIsNone(place.lock_path)
            self.assertIsNone(place.recorder_path)

    def test_a_variable_that_is_not_set_names_no_file(self) -> None:
        for url in ("sqlite:///", "sqlite:///?synchronous=off"):
            self.assertIn("names no file", self.complaint(url))

    def test_a_commit_waits_for_the_disk_unless_told_otherwise(self) -> None:
        self.assertEqual(self.place("sqlite:///a").synchronous, "full")
        for synchronous in ("full", "normal", "off"):
            self.assertEqual(
                self.place(f"sqlite:///a?synchronous={synchronous}"), Place(FOLDER / "a", synchronous)
            )

    def test_another_way_to_wait_is_refused(self) -> None:
        for wrong in ("never", "", "1"):
            self.assertIn("full, normal, off", self.complaint(f"sqlite:///a?synchronous={wrong}"))

    def test_another_parameter_is_refused_by_name(self) -> None:
        self.assertIn("twice", self.complaint("sqlite:///a?synchronous=full&synchronous=off"))
        for url in ("sqlite:///a?mode=ro", "sqlite:///a?synchronous=off&mode=ro", "sqlite:///a?mode"):
            self.assertIn("'mode'", self.complaint(url))

    def test_another_database_is_refused(self) -> None:
        for url in ("mysql://host/db", "asynctask.sqlite", "", "sqlite:a", "/var/a.sqlite", "file:///a"):
            self.assertIn(f"not '{url}'", self.complaint(url))

    def test_two_slashes_are_one_too_few(self) -> None:
        self.assertIn("sqlite:///a.sqlite", self.complaint("sqlite://a.sqlite"))


class FileTestCase(SynchronousTestCase):
    """Gives each test a folder, and a place in it."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(shutil.rmtree, self.folder)
        self.path = self.folder / "asynctask.sqlite"
        self.place = Place(self.path)

    def complaint(self, path: Path | None = None) -> str:
        """Why the store cannot be opened; whatever is there stays as it is."""
        place = self.place if path is None else Place(path)
        before = self.state()
        with self.assertRaises(StartError) as caught:
            check(place)
        self.assertEqual(self.state(), before)
        told = str(caught.exception)
        self.assertEqual(told.splitlines(), [told])
        return told

    def state(self) -> tuple[bytes, int, int] | None:
        """All that can be seen of the file."""
        if not self.path.is_file():
            return None
        about = self.path.stat()
        return self.path.read_bytes(), about.st_mtime_ns, about.st_mode

    def make_store(
        self, *, journal: str = "wal", schema: int = SCHEMA, readable_from: str | None = "1"
    ) -> None:
        """A database as we make it, some pages long."""
        with closing(sqlite3.connect(self.path)) as file:
            file.execute(f"PRAGMA page_size = {PAGE}")
            file.execute(f"PRAGMA journal_mode = {journal}")
            file.execute("PRAGMA synchronous = off")
            file.executescript(
                f"""
                PRAGMA application_id = {APPLICATION_ID};
                CREATE TABLE alembic_version (version_num TEXT);
                INSERT INTO alembic_version VALUES ('{schema:04d}');
                CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
                CREATE TABLE task (task_id TEXT PRIMARY KEY, name TEXT);
                CREATE INDEX task_name ON task (name);
                """
            )
            rows = [(f"task_{number}", "name" * 20) for number in range(500)]
            file.executemany("INSERT INTO task VALUES (?, ?)", rows)
            if readable_from is not None:
                file.execute("INSERT INTO meta VALUES ('readable_from', ?)", (readable_from,))
            file.commit()

    def overwrite(self, start: int, data: bytes) -> None:
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(data)


def make_null(path: Path) -> None:
    """Another /dev/null, for whoever might remove or rename that; only root can make one."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        raise SkipTest("only root can make a device") from None


@contextmanager
def nobody() -> Iterator[None]:
    """Without the rights of root, whom no file's mode keeps out."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


class SoundStores(FileTestCase):
    """What the service can start with."""

    def test_memory_is_always_sound(self) -> None:
        check(Place(None))
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_store_of_ours_is_sound_and_left_as_it_is(self) -> None:
        for journal in ("wal", "delete"):
            self.make_store(journal=journal)
            before = self.state()
            check(self.place)
            self.assertEqual(self.state(), before)
            self.path.unlink()

    def test_a_file_that_is_not_there_yet_is_not_made(self) -> None:
        check(self.place)
        self.assertFalse(self.path.exists())

    def test_looking_leaves_nothing_behind(self) -> None:
        check(self.place)
        self.assertEqual(os.listdir(self.folder), [])

    def test_an_empty_file_is_a_new_store(self) -> None:
        self.path.touch()
        check(self.place)
        self.assertEqual(self.path.stat().st_size, 0)

    def test_a_store_that_is_open_in_a_reader_is_sound(self) -> None:
        self.make_store()
        with closing(sqlite3.connect(self.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM task").fetchone()
            check(self.place)
            self.assertTrue(reader.in_transaction)

    def test_a_commit_that_is_only_in_the_log_is_kept(self) -> None:
        self.make_store()
        with closing(sqlite3.connect(self.path)) as writer:
            writer.execute("INSERT INTO meta VALUES ('a', 'b')")
            writer.commit()
            check(self.place)
            self.assertEqual(writer.execute("SELECT value FROM meta WHERE key = 'a'").fetchall(), [("b",)])

    def test_a_path_may_hold_any_characters(self) -> None:
        self.path = self.folder / "a b?c#d%20ü.sqlite"
        self.place = Place(self.path)
        self.make_store()
        check(self.place)
        self.overwrite(0, b"no database at all")
        self.assertIn("a b?c#d%20ü.sqlite", self.complaint())

    def test_a_newer_store_that_says_that_we_can_read_it_is_sound(self) -> None:
        self.make_store(schema=SCHEMA + 1, readable_from=str(SCHEMA))
        check(self.place)
        self.assertTrue(self.path.exists())

    def test_a_file_too_long_to_be_looked_through_at_a_start_is_sound(self) -> None:
        self.make_store()
        with closing(sqlite3.connect(self.path)) as file:
            file.executemany(
                "INSERT INTO task VALUES (?, '')", [(f"{number}",) for number in range(20_000)]
            )
            file.commit()
        self.patch(sqlitefile, "CHECK", -1.0)
        check(self.place)

    def test_so_is_one_at_which_sqlite_could_not_be_stopped(self) -> None:
        self.make_store()
        self.overwrite(self.path.stat().st_size - PAGE, b"\0" * PAGE)
        self.assertIn("damaged", self.complaint())
        self.patch(sqlitefile, "STOPPABLE", (99,))
        self.assertIn("damaged", self.complaint())
        self.patch(sqlitefile, "LOOKED_THROUGH", self.path.stat().st_size - 1)
        check(self.place)


class UnsoundStores(FileTestCase):
    """What the service cannot start with; each is told in a sentence, and left as it is."""

    def test_a_missing_folder_is_named(self) -> None:
        missing = self.folder / "none"
        self.assertIn(str(missing), self.complaint(missing / "asynctask.sqlite"))
        self.assertFalse(missing.exists())

    def test_a_folder_is_no_file(self) -> None:
        self.assertIn("is a folder", self.complaint(self.folder))

    def test_a_pipe_is_no_file(self) -> None:
        os.mkfifo(self.path)
        self.assertIn("is a device or a pipe, not a file", self.complaint())

    def test_an_old_sqlite_is_told_so(self) -> None:
        self.patch(sqlitefile, "OLDEST", (99, 1, 0))
        self.assertIn("is too old: asynctask needs 99.1.0 or later", self.complaint())

    def test_a_file_that_is_gone_is_noticed_by_what_lies_beside_it(self) -> None:
        self.assertFalse(is_missing(Place(None)))
        self.assertFalse(is_missing(self.place))
        assert self.place.recorder_path is not None
        self.place.recorder_path.touch()
        self.assertTrue(is_missing(self.place))
        self.path.touch()
        self.assertFalse(is_missing(self.place))

    def test_one_that_others_may_use_is_noticed(self) -> None:
        self.assertFalse(is_of_others(Place(None)))
        self.path.touch()
        for mode, is_seen in ((0o600, False), (0o640, False), (0o660, True), (0o644, True), (0o606, True)):
            self.path.chmod(mode)
            self.assertEqual(is_of_others(self.place), is_seen, oct(mode))

    def test_a_link_in_the_place_of_the_lock_is_refused(self) -> None:
        assert self.place.lock_path is not None
        self.place.lock_path.symlink_to(self.folder / "precious")
        self.assertIn("it is a link", str(self.assertRaises(StartError, Lock, self.place)))
        self.assertFalse((self.folder / "precious").exists())

    def test_a_file_that_cannot_be_made_is_named(self) -> None:
        with self.assertRaises(StartError) as raised:
            create(Place(self.folder))
        self.assertIn(f"cannot open {self.folder} ", str(raised.exception))

    def test_a_file_cannot_be_a_folder(self) -> None:
        self.path.touch()
        self.assertIn("no such folder", self.complaint(self.path / "asynctask.sqlite"))

    def test_a_folder_that_cannot_be_written_is_named(self) -> None:
        self.folder.chmod(0o555)
        with nobody():
            self.assertIn(f"cannot write into the folder {self.folder}", self.complaint())
        self.assertEqual(os.listdir(self.folder), [])

    def test_a_folder_that_cannot_be_entered_is_named_too(self) -> None:
        self.folder.chmod(0)
        self.addCleanup(self.folder.chmod, 0o700)
        for folder in (self.folder, self.folder / "inside"):
            with nobody(), self.assertRaises(StartError) as raised:
                check(Place(folder / "t.sqlite"))
            self.assertIn(f"cannot write into the folder {folder} ", str(raised.exception))

    def test_a_folder_that_cannot_be_read_is_named_since_it_could_not_be_synced(self) -> None:
        self.folder.chmod(0o333)
        self.addCleanup(self.folder.chmod, 0o700)
        with nobody():
            self.assertIn(f"cannot read the folder {self.folder}", self.complaint())

    def test_a_folder_of_a_read_only_file_system_is_named(self) -> None:
        if not Path("/sys/kernel").is_dir():
            raise SkipTest("No sysfs here")
        self.assertIn("/sys/kernel", self.complaint(Path("/sys/kernel/asynctask.sqlite")))

    def test_a_file_that_cannot_be_written_is_named(self) -> None:
        self.make_store(journal="delete")
        self.path.chmod(0o444)
        self.folder.chmod(0o777)
        with nobody():
            self.assertIn(f"{self.path} cannot be read and written", self.complaint())

    def test_a_file_that_is_no_database_is_told_so(self) -> None:
        for data in (b"hello", b"hello" * 1000, b"SQLite format 3\0", os.urandom(3 * PAGE)):
            self.path.write_bytes(data)
            self.assertIn("no sound SQLite database", self.complaint())

    def test_a_database_of_another_program_is_told_so(self) -> None:
        with closing(sqlite3.connect(self.path)) as file:
            file.execute("CREATE TABLE bookmark (url TEXT)")
        self.assertIn("another program", self.complaint())

    def test_a_database_that_another_program_has_marked_is_told_so(self) -> None:
        self.make_store()
        with closing(sqlite3.connect(self.path)) as file:
            file.execute("PRAGMA application_id = 1")
        self.assertIn("another program", self.complaint())

    def test_a_database_of_ours_without_our_tables_is_told_so(self) -> None:
        self.make_store()
        with closing(sqlite3.connect(self.path)) as file:
            file.execute("DROP TABLE alembic_version")
        self.assertIn("cannot be opened", self.complaint())

    def test_a_damaged_page_is_noticed(self) -> None:
        self.make_store()
        pages = self.path.stat().st_size // PAGE
        self.assertGreater(pages, 10)
        self.overwrite((pages - 4) * PAGE, b"\xff" * PAGE)
        self.assertIn("damaged", self.complaint())

    def test_a_file_that_was_cut_short_is_noticed(self) -> None:
        self.make_store()
        os.truncate(self.path, self.path.stat().st_size - 3 * PAGE)
        self.assertIn(str(self.path), self.complaint())

    def test_a_damaged_head_is_noticed(self) -> None:
        self.make_store()
        self.overwrite(0, b"\0" * 16)
        self.assertIn("no sound SQLite database", self.complaint())

    def test_a_newer_store_is_told_so(self) -> None:
        for readable_from in (None, str(SCHEMA + 1)):
            self.make_store(schema=SCHEMA + 1, readable_from=readable_from)
            self.assertIn(f"has schema {SCHEMA + 1}", self.complaint())
            self.path.unlink()


class Locks(FileTestCase):
    """One process a file."""

    def test_a_store_that_is_in_use_is_told_so(self) -> None:
        self.make_store()
        with closing(Lock(self.place)):
            self.assertIn("in use by another asynctask process", self.complaint())

    def test_a_second_lock_is_refused(self) -> None:
        with closing(Lock(self.place)):
            self.assertRaises(StartError, Lock, self.place)

    def test_a_lock_that_was_closed_can_be_had(self) -> None:
        Lock(self.place).close()
        with closing(Lock(self.place)):
            self.assertRaises(StartError, Lock, self.place)

    def test_a_look_holds_nothing(self) -> None:
        check(self.place)
        with closing(Lock(self.place)):
            self.assertRaises(StartError, check, self.place)

    def test_two_names_of_one_file_share_its_lock(self) -> None:
        self.path.touch()
        other = self.folder / "link.sqlite"
        other.symlink_to(self.path)
        with closing(Lock(self.place)):
            self.assertRaises(StartError, Lock, Place(other))

    def test_two_files_have_two_locks(self) -> None:
        with closing(Lock(self.place)), closing(Lock(Place(self.folder / "other.sqlite"))):
            self.assertRaises(StartError, Lock, self.place)

    def test_a_lock_lies_beside_its_file_and_stays(self) -> None:
        Lock(self.place).close()
        self.assertEqual(os.listdir(self.folder), ["asynctask.sqlite-lock"])

    def test_nobody_else_can_take_a_lock(self) -> None:
        assert self.place.lock_path is not None
        with closing(Lock(self.place)):
            self.assertEqual(self.place.lock_path.stat().st_mode & 0o777, 0o600)

    def test_a_lock_is_not_passed_on_to_children(self) -> None:
        with closing(Lock(self.place)) as lock:
            self.assertFalse(os.get_inheritable(lock._descriptor))

    def test_memory_needs_no_lock(self) -> None:
        with closing(Lock(Place(None))), closing(Lock(Place(None))):
            self.assertEqual(os.listdir(self.folder), [])

    def test_a_lock_may_be_closed_twice(self) -> None:
        lock = Lock(self.place)
        lock.close()
        with closing(Lock(self.place)):
            lock.close()
            self.assertRaises(StartError, Lock, self.place)

    def test_a_lock_that_cannot_be_made_is_told_so(self) -> None:
        with self.assertRaises(StartError) as caught:
            Lock(Place(self.folder / "none" / "asynctask.sqlite"))
        self.assertIn("asynctask.sqlite-lock", str(caught.exception))

    def test_a_look_by_root_leaves_the_store_to_the_user_it_runs_as(self) -> None:
        if os.getuid() != 0:
            raise SkipTest("Only root can become another user")
        self.folder.chmod(0o777)
        check(self.place)
        with nobody(), closing(Lock(self.place)):
            self.assertRaises(StartError, Lock, self.place)

    def test_files_of_a_store_lie_beside_the_real_file(self) -> None:
        real = self.folder / "real.sqlite"
        real.touch()
        self.path.symlink_to(real)
        self.assertEqual(self.place.lock_path, self.folder / "real.sqlite-lock")
        self.assertEqual(self.place.recorder_path, self.folder / "real.sqlite-recorder")
