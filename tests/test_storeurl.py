"""Which database a store's URL names, and what is said of one that names none."""

from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from asynctask import storeurl
from asynctask.problems import StartError

FOLDER: Final = Path("/srv")
GOOD: Final = "postgresql://h/db"
WRONG: Final = (
    *("postgresql+psycopg://u:hunter2@h/db", "Postgresql://u:hunter2@h/db", "u:hunter2@h/db"),
    *("postgresql:/u:hunter2@h/db", "postgresql://u:hunter2@[::1/db", "postgresql://u:hunter2@h:x/db"),
    *("postgresql://u:hunter2%zz@h/db", "postgresql://u:hunter2/x@h/db", "postgresql://u:hunter2 x@h/db"),
    *("postgresql://u:x@hunter2:y@h/db", "postgresql://u:x@hunter2@h/db", "postgresql://u:1/hunter2@h/db"),
    *("postgresql://h/db?password=hunter2%zz", "postgresql://h/db?password=x hunter2"),
    *("host=h password='a\\'hunter2 x", "password=x hunter2", "host=h password=hunter2 port=x"),
)


class Wrong(SynchronousTestCase):
    """A URL with a mistake."""

    def refusal(self, url: str, listen: str | None = None) -> str:
        with self.assertRaises(StartError) as caught:
            storeurl.parse(url, FOLDER, 15.0, listen)
        return str(caught.exception)

    def test_no_password_is_shown(self) -> None:
        for url in WRONG:
            for said in (self.refusal(url), self.refusal(GOOD, url)):
                self.assertNotIn("hunter2", said, url)
                self.assertRegex(said, "^--(notify-)?store [^\\n]+$")

    def test_what_hides_nothing_is_shown(self) -> None:
        self.assertIn("not 'asynctask.sqlite'", self.refusal("asynctask.sqlite"))
        self.assertIn("not 'mysql://h/db'", self.refusal("mysql://h/db"))
        self.assertIn("not 'mysql://…'", self.refusal("mysql://u@h/db"))
        self.assertIn('"foo"', self.refusal("postgresql://h/db?foo=1"))
        self.assertIn("'x'", self.refusal("postgresql://h:x/db"))

    def test_names_that_look_like_a_piece_of_a_password_may_be_meant(self) -> None:
        for url in ("postgresql:///db?host=@abstract", "postgresql://u:p@h/a%40b"):
            storeurl.parse(url, FOLDER, 15.0)


class Names(SynchronousTestCase):
    """How a database is named to people."""

    def test_its_hosts_and_ports_are_shown_and_nothing_secret(self) -> None:
        for url, name in (
            ("postgresql://u:hunter2@h/db", "postgresql://h/db"),
            ("postgresql://h:5433/db", "postgresql://h:5433/db"),
            ("postgresql://a:1,b:2/db", "postgresql://a:1,b:2/db"),
            ("postgresql:///db?host=a,b&port=5433&password=hunter2", "postgresql://a:5433,b:5433/db"),
            ("postgresql:///db?host=/run/postgresql", "postgresql:///run/postgresql/db"),
        ):
            self.assertEqual(storeurl.parse(url, FOLDER, 15.0).path, name)


class Recorders(SynchronousTestCase):
    """The flight recorders of a database."""

    def test_they_are_the_same_with_another_password(self) -> None:
        one, same, other = (
            storeurl.parse(url, FOLDER, 15.0).recorder_path
            for url in ("postgresql://u:a@h/db", "postgresql://u:b@h/db", "postgresql://u:a@h/other")
        )
        self.assertEqual(one, same)
        self.assertNotEqual(one, other)
