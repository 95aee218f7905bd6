"""What the command takes: its options, and the variable that each of them has."""

import os
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Final

from twisted.python import usage

import twisted
from asynctask import __version__
from asynctask.addresses import Allowed, NotAnAddressError
from asynctask.guard import split_host
from asynctask.pidfile import forget_if_stale, why_not_written
from asynctask.seats import REACTOR, THREADS

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
        "?synchronous=full, normal or off says what a commit waits for; or postgresql://..., for any "
        "number of processes on many machines",
    ),
    ("processes", None, 1, "processes on one port, each with the --concurrency (PostgreSQL only)"),
    ("lease", None, 15, "seconds after which a silent process is taken for dead (PostgreSQL only)"),
    ("notify-store", None, None, "a direct URL for LISTEN where a pooler stands before --store"),
    ("max-waiting", None, 10_000_000, "tasks that may be there without having ended; above that, 503"),
    ("keep", None, 7, "days until an ended task is forgotten"),
    ("grace", None, 10, "seconds that SIGTERM leaves to running attempts; a second SIGTERM ends at once"),
    ("log-format", None, "text", "text or json"),
    ("http", None, "fast", "fast, or twisted.web for the stock HTTP server"),
    (
        "callback-secret",
        None,
        None,
        "file with whsec_... secrets, one a line, of which the first signs callbacks; without it, a secret "
        "is drawn once and kept in the store",
    ),
)

FLAGS: Final = (
    ("insecure", None, "lets --listen be beyond loopback, where everybody who can connect may use it"),
    ("access-log", None, "write a line a request into the log"),
    ("no-http", None, "listen nowhere: a pure worker"),
)

REPEATABLE: Final = ("host", "tasks", "concurrency", "callbacks-to")
"""Options that may be given several times; with commas between in their variables."""

PREFIX: Final = "ASYNCTASK_"
SIMILAR: Final = 0.85
"""How like ours a name must be to be taken for a slip of it: Kubernetes makes ASYNCTASK_PORT_80_TCP."""

HIGHEST_PORT: Final = 65_535
MOST_SEATS: Final = 10_000_000
"""Attempts at once that may be asked for: beyond it their records alone fill a large machine."""
MOST_DIGITS: Final = 8
"""Digits of the largest of these numbers."""
MOST_THREADS: Final = 1_000
MOST_PROCESSES: Final = 256
LONGEST_LEASE: Final = 3_600
LONGEST_GRACE: Final = 86_400
LONGEST_KEPT: Final = 36_500


class Options(usage.Options):
    """The options of ``twistd asynctask``.

    Each has a variable, such as ASYNCTASK_PORT for --port; the command line overrides it, but for flags,
    which it cannot take back. The variables of repeatable options have commas between their values.

    :ivar given: the arguments.
    """

    given: list[str]

    synopsis = "[options]"
    longdesc = (
        "Takes tasks at POST /api/tasks, answers 202 at once, and runs them in the background. "
        "Each of its settings can be given by a variable too: ASYNCTASK_PORT for --port, and so on."
    )
    optParameters: ClassVar[list[list[Any]]] = [list(parameter) for parameter in PARAMETERS]
    optFlags: ClassVar[list[list[Any]]] = [
        *(list(flag) for flag in FLAGS),
        ["show-callback-secret", None, "print what callbacks are signed with, and end"],
    ]

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self["hosts"] = []
        self["modules"] = []
        self["callbacks-to"] = []
        self["concurrency"] = REACTOR
        self["threads"] = THREADS
        self["spawned"] = None
        self._environment = environment
        self._from_variables: dict[str, int] = {}
        self._concurrency: list[str] = []

    def opt_version(self) -> None:
        """print the versions of asynctask and Twisted, and end"""
        sys.stdout.write(f"asynctask {__version__}, Twisted {twisted.__version__}\n")
        sys.exit(0)

    def parseArgs(self, *rest: str) -> None:
        """Refuse what belongs to no option."""
        if rest:
            raise usage.UsageError(f"'{rest[0]}' is no option, and none before it takes another value")

    def opt_host(self, name: str) -> None:
        """a further name accepted in the Host of a request; repeatable"""
        self["hosts"].append(name)

    def opt_callbacks_to(self, named: str) -> None:
        """an IP address, a network (CIDR) or a host name that callbacks may reach besides public addresses;
        repeatable"""
        self["callbacks-to"].append(named)

    def opt_tasks(self, module: str) -> None:
        """a Python module with handlers, found from the working directory too; repeatable"""
        self["modules"].append(module)

    def opt_concurrency(self, value: str) -> None:
        """attempts at once: N on the reactor (1000000; 0 only accepts, everywhere), threads=N (32),
        processes=N (the CPUs, shared by --processes); repeatable"""
        self._concurrency.append(value)

    def _set_concurrency(self, value: str) -> None:
        place, separator, number = value.rpartition("=")
        highest = {"": MOST_SEATS, "threads": MOST_THREADS, "processes": MOST_PROCESSES}
        if bool(separator) != bool(place) or place not in highest:
            raise usage.UsageError(f"--concurrency takes N, threads=N or processes=N, not '{value}'")
        short = number.lstrip("0") or number[-1:]
        if not short.isascii() or not short.isdecimal() or int(short[: MOST_DIGITS + 1]) > highest[place]:
            raise usage.UsageError(
                f"--concurrency takes a whole number from 0 to {highest[place]}, not '{number}'"
            )
        self[{"": "concurrency", "processes": "spawned"}.get(place, place)] = int(short)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read variables, then the command line.

        :raises SystemExit: with one sentence.
        """
        given = self.given = sys.argv[1:] if options is None else list(options)
        try:
            super().parseOptions([*self._from_environment(), *given])
        except usage.UsageError as error:
            sys.exit(f"asynctask: {error} (--help lists the options)")

    def postOptions(self) -> None:
        """Check and convert what was given."""
        twistd = getattr(self, "parent", None) or {}
        if twistd.get("pidfile"):
            # twistd looks at its PID file after the options, and before anything else of ours.
            pid_file = Path(twistd["pidfile"])  # from here, whatever --rundir says
            forget_if_stale(pid_file)
            why = None if twistd.get("chroot") else why_not_written(pid_file)
            if why is not None:
                raise usage.UsageError(
                    f"--pidfile {pid_file} cannot be written ({why}); --pidfile= writes none"
                )
        self["port"] = self._number("port", int, 0, HIGHEST_PORT)
        self["lease"] = self._number("lease", float, 1, LONGEST_LEASE)
        self["max-waiting"] = self._number("max-waiting", int, 0, 10**9)
        self["keep"] = self._number("keep", float, 0, LONGEST_KEPT)
        self["processes"] = self._number("processes", int, 1, MOST_PROCESSES)
        for value in self._overriding("concurrency", self._concurrency):
            self._set_concurrency(value)
        if self["spawned"] is None:
            self["spawned"] = max(1, len(os.sched_getaffinity(0)) // self["processes"])
        if self["concurrency"] == 0:
            self["threads"] = self["spawned"] = 0
            if self["no-http"]:
                raise usage.UsageError("--no-http with --concurrency 0 would do nothing")
        self["grace"] = self._number("grace", float, 0, LONGEST_GRACE)
        if self["log-format"] not in ("text", "json"):
            raise usage.UsageError(f"--log-format is text or json, not '{self['log-format']}'")
        if self["http"] not in ("fast", "twisted.web"):
            raise usage.UsageError(f"--http is fast or twisted.web, not '{self['http']}'")
        self["modules"] = self._overriding("tasks", self["modules"])
        self["callbacks-to"] = self._overriding("callbacks-to", self["callbacks-to"])
        self["hosts"] = [self._host(given) for given in self._overriding("host", self["hosts"])]
        try:
            Allowed(self["callbacks-to"])
        except NotAnAddressError as error:
            raise usage.UsageError(
                f"--callbacks-to takes an IP address, a network (CIDR) or a host name, {error}"
            ) from None

    def _overriding(self, name: str, values: list[str]) -> list[str]:
        """What the command line gives of a repeatable option, or what its variable does."""
        count = self._from_variables[name]
        return values[count:] or values[:count]

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
        for name in REPEATABLE:
            values = [f"--{name}={one}" for one in map(str.strip, self._variable(name).split(",")) if one]
            self._from_variables[name] = len(values)
            found += values
        for flag, *_ in FLAGS:
            value = self._variable(flag).lower()
            if value in ("1", "true", "yes", "on"):
                found.append(f"--{flag}")
            elif value not in ("", "0", "false", "no", "off"):
                raise usage.UsageError(f"{_variable_of(flag)} is 1 or 0, not '{value}'")
        return found

    def misspelt(self) -> dict[str, str]:
        """Variables that are none of ours, and those that may be meant; others may come from anywhere."""
        once = [name for name, *_ in (*PARAMETERS, *FLAGS)]
        known = [_variable_of(name) for name in (*once, *REPEATABLE)]
        strange = [name for name in self._environment if name.startswith(PREFIX) and name not in known]
        similar = {name: get_close_matches(name, known, n=1, cutoff=SIMILAR) for name in strange}
        return {name: found[0] for name, found in similar.items() if found}

    def _variable(self, name: str) -> str:
        # Files and secrets end with a newline.
        value = self._environment.get(_variable_of(name), "").strip()
        # Kubernetes makes it for a service that is named asynctask.
        return "" if name == "port" and value.startswith("tcp://") else value


def _variable_of(option: str) -> str:
    return f"{PREFIX}{option.upper().replace('-', '_')}"
