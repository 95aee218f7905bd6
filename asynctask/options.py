"""What the command takes: its options, and the variable that each of them has."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from twisted.python import usage

from asynctask.guard import split_host

PARAMETERS: Final = (
    ("port", "p", 8080, "TCP port on 127.0.0.1; 0 takes a free one"),
    (
        "listen",
        None,
        None,
        "Twisted server endpoint to listen on instead, such as tcp:80, ssl:443:privateKey=key.pem, "
        "unix:/run/asynctask.sock or systemd:domain=INET:index=0; beyond loopback only with "
        "--insecure",
    ),
    (
        "store",
        None,
        "sqlite:///asynctask.sqlite",
        "where tasks are kept: sqlite:///FILE, or sqlite:// for memory only; "
        "?synchronous=full, normal or off says what a commit waits for",
    ),
    ("concurrency", None, 1_000_000, "attempts at once; 0 only accepts"),
    ("grace", None, 10, "seconds that SIGTERM leaves to running attempts; a second ends at once"),
    ("log-format", None, "text", "text or json"),
)

HIGHEST_PORT: Final = 65_535
MOST_SEATS: Final = 10_000_000
"""Attempts at once that may be asked for: beyond it their records alone fill a large machine."""
LONGEST_GRACE: Final = 86_400


class Options(usage.Options):
    """The options of ``twistd asynctask``.

    Each has a variable, such as ASYNCTASK_PORT for --port; the command line overrides it. In
    ASYNCTASK_HOST several names have commas between them.
    """

    synopsis = "[options]"
    longdesc = (
        "Takes tasks at POST /api/tasks, answers 202 at once, and runs them in the background. "
        "Each option can be given by a variable too: ASYNCTASK_PORT for --port, and so on."
    )
    optParameters: Final = [list(parameter) for parameter in PARAMETERS]
    optFlags: Final = [
        ["insecure", None, "listen beyond loopback, where everybody who can connect may use it"]
    ]

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self["hosts"] = []
        self._environment = environment

    def opt_host(self, name: str) -> None:
        """a further name accepted in the Host of a request; repeatable"""
        self["hosts"].append(name)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read variables, then the command line.

        :raises SystemExit: with one sentence.
        """
        given = sys.argv[1:] if options is None else list(options)
        try:
            super().parseOptions([*self._from_environment(), *given])
        except usage.UsageError as error:
            sys.exit(f"asynctask: {error} (--help lists the options)")

    def postOptions(self) -> None:
        """Check and convert what was given."""
        self["port"] = self._number("port", int, 0, HIGHEST_PORT)
        self["concurrency"] = self._number("concurrency", int, 0, MOST_SEATS)
        self["grace"] = self._number("grace", float, 0, LONGEST_GRACE)
        if self["log-format"] not in ("text", "json"):
            raise usage.UsageError(f"--log-format is text or json, not '{self['log-format']}'")
        self["hosts"] = [self._host(given) for given in self["hosts"]]

    def _host(self, given: str) -> str:
        name, _ = split_host(given.encode("ascii", "replace"))
        if not name or re.search(r":\d*$", given.rpartition("]")[2]):
            raise usage.UsageError(f"--host takes a name without port or path, not '{given}'")
        return name

    def _number(self, name: str, kind: type[int] | type[float], low: int, high: int) -> Any:
        try:
            number = kind(self[name])
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            what = "whole number" if kind is int else "number"
            raise usage.UsageError(f"--{name} takes a {what} from {low} to {high}, not '{self[name]}'")
        return number

    def _from_environment(self) -> list[str]:
        """What the variables say, as options."""
        found = []
        for name, *_ in PARAMETERS:
            if value := self._variable(name):
                found.append(f"--{name}={value}")
        for host in self._variable("host").split(","):
            if host:
                found.append(f"--host={host}")
        insecure = self._variable("insecure").lower()
        if insecure in ("1", "true", "yes", "on"):
            found.append("--insecure")
        elif insecure not in ("", "0", "false", "no", "off"):
            raise usage.UsageError(f"ASYNCTASK_INSECURE is 1 or 0, not '{insecure}'")
        return found

    def _variable(self, name: str) -> str:
        return self._environment.get(f"ASYNCTASK_{name.upper().replace('-', '_')}", "")
