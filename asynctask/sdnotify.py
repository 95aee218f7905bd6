"""Tells systemd that the service is ready, that it is alive, and that it ends: sd_notify(3)."""

import os
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from math import inf
from time import monotonic
from typing import Final

from twisted.logger import Logger

log = Logger(namespace="asynctask.sdnotify")

OFTEN: Final = 4
"""Signs of life in the time after which a service is taken for dead: one or two of them may be late."""


VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What asks for it."""


class Notifier:
    """Tells nobody, until it takes what asks for it from the environment, if anything does.

    :param environment: what asks for it.
    :param seconds: monotonic.
    """

    _socket = ""
    _pause = 0.0

    def __init__(
        self, environment: MutableMapping[str, str], seconds: Callable[[], float] = monotonic
    ) -> None:
        self._environment = environment
        self._seconds = seconds
        self._next = inf
        self._is_due = False

    def take(self) -> None:
        """Tell from now on. It is taken out: the programs that handlers start are not meant."""
        self._socket = self._environment.pop("NOTIFY_SOCKET", "")
        patience = self._environment.pop("WATCHDOG_USEC", "")
        if self._environment.pop("WATCHDOG_PID", "") in ("", str(os.getpid())) and patience.isdecimal():
            self._pause = int(patience) / 1e6 / OFTEN

    def ready(self) -> None:
        """The service serves."""
        self._next = self._seconds()
        self._is_due = False
        try:
            self._tell(b"READY=1")
        except BlockingIOError:  # it is busy, and told with the next sign of life
            self._is_due = True
        except OSError as error:
            reason = error.strerror or str(error)
            log.warn("systemd cannot be told that the service is ready", socket=self._socket, error=reason)

    def alive(self) -> None:
        """The reactor turns; may be called at each turn, and tells nothing before the service serves."""
        if self._is_due:
            self.ready()
        now = self._seconds()
        if self._pause and now >= self._next:
            self._next = now + self._pause
            with suppress(OSError):  # it is told again in time
                self._tell(b"WATCHDOG=1")

    def stopping(self) -> None:
        """The service ends."""
        with suppress(OSError):
            self._tell(b"STOPPING=1")

    def _tell(self, state: bytes) -> None:
        if not self._socket:
            return
        # An '@' is the NUL of Linux's abstract namespace, which no variable can hold.
        address = "\0" + self._socket[1:] if self._socket.startswith("@") else self._socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as teller:
            teller.sendto(state, address)
