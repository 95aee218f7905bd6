"""What the command makes of its options: each reaches what it is for."""

from pathlib import Path
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from asynctask import service
from asynctask.options import Options
from asynctask.registry import simulate
from asynctask.signing import new_secret
from asynctask.sqlitefile import Place

KINDS = {"simulate": simulate}
"""What there is without a module of handlers."""


class Made:
    """In place of the service: keeps what it is made with."""

    def __init__(self, place: object, description: str | None, _reactor: object, **given: Any) -> None:
        self.given: dict[str, Any] = {"place": place, "description": description, **given}


class OptionsTests(SynchronousTestCase):
    """A service that is not started."""

    def made(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """What it is made with."""
        self.patch(service, "Command", Made)
        self.patch(service, "raise_file_limit", lambda: None)
        options = Options(variables)
        options.parseOptions(arguments)
        made: Any = service.makeService(options)
        self.assertEqual({name: kind.function for name, kind in made.given.pop("kinds").items()}, KINDS)
        given: dict[str, Any] = made.given
        return given

    def test_whatever_is_given_is_what_it_runs_with(self) -> None:
        first, second = new_secret(), new_secret()
        secrets = Path(self.mktemp()).absolute()
        secrets.write_text(f"{first}\n{second}\n")
        self.assertEqual(
            self.made(
                *("--store=sqlite://", "--listen=tcp:0:interface=127.0.0.2", "--insecure"),
                *("--host=a.example", "--host=b.example", "--http=twisted.web", "--access-log"),
                *("--concurrency=3", "--concurrency=threads=4", "--concurrency=processes=5"),
                *("--max-waiting=6", "--keep=0.5", "--grace=7", "--callbacks-to=10.0.0.1"),
                f"--callback-secret={secrets}",
            ),
            {
                "place": Place(None),
                "description": "tcp:0:interface=127.0.0.2",
                "insecure": True,
                "hosts": ("a.example", "b.example"),
                "http": "twisted.web",
                "access_log": True,
                "seats": {"reactor": 3, "asyncio": 3, "thread": 4, "process": 5},
                "max_waiting": 6,
                "keep": 0.5,
                "grace": 7,
                "callbacks_to": ["10.0.0.1"],
                "callback_secrets": [first, second],
            },
        )

    def test_a_misspelt_variable_is_told_in_the_log(self) -> None:
        with capturedLogs() as logged:
            self.made("--store=sqlite://", "--port=0", ASYNCTASK_STOR="x", ASYNCTASK_KEEP="1")
        self.assertEqual(
            [(one["log_format"], one["name"], one["did_you_mean"]) for one in logged],
            [("Unknown variable", "ASYNCTASK_STOR", "ASYNCTASK_STORE")],
        )

    def test_a_service_that_only_accepts_has_no_seats(self) -> None:
        seats = self.made("--store=sqlite://", "--port=0", "--concurrency=0")["seats"]
        self.assertEqual(seats, dict.fromkeys(("reactor", "asyncio", "thread", "process"), 0))
