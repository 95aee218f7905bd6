"""Files that are ours, whatever is in their place."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from asynctask.ownfiles import open_own


class OpenOwn(SynchronousTestCase):
    """What is opened, and what is not."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "recorder"

    def test_a_new_one_is_this_users_alone(self) -> None:
        descriptor = open_own(self.path)
        self.addCleanup(os.close, descriptor)
        self.assertEqual(os.fstat(descriptor).st_mode & 0o777, 0o600)

    def test_one_that_is_there_keeps_what_is_in_it(self) -> None:
        self.path.write_text("before")
        descriptor = open_own(self.path)
        self.addCleanup(os.close, descriptor)
        self.assertEqual(os.read(descriptor, 100), b"before")

    def test_a_link_is_refused_wherever_it_leads(self) -> None:
        for target in (self.folder / "precious", self.folder / "nowhere"):
            (self.folder / "precious").write_text("precious")
            self.path.symlink_to(target)
            with self.assertRaises(OSError) as caught:
                open_own(self.path)
            self.assertEqual(caught.exception.strerror, "it is a link")
            self.path.unlink()
        self.assertEqual([one.name for one in self.folder.iterdir()], ["precious"])

    def test_so_is_what_is_no_file(self) -> None:
        os.mkfifo(self.path)
        with self.assertRaises(OSError) as caught:
            open_own(self.path)
        self.assertEqual(caught.exception.strerror, "it is no file")

    def test_what_else_is_wrong_is_told_as_it_is(self) -> None:
        self.assertRaises(FileNotFoundError, open_own, self.folder / "missing" / "recorder")
        self.assertRaises(IsADirectoryError, open_own, self.folder)
