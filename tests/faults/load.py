"""A steady stream of POSTs that outlives the service it is aimed at."""

import time
from itertools import count
from random import Random
from threading import Event, Thread
from typing import Self

from tests.faults.client import Client
from tests.faults.ledger import Ledger
from tests.faults.log import LogLine
from tests.faults.server import listening_port

DELAYS = (0, 0, 0, 0.7)


class Target:
    """Where to send: the port of the present life, or None while there is none.

    `lives` tells two lives on one port apart: their connections are not the same.
    """

    def __init__(self) -> None:
        self.port: int | None = None
        self.lives = 0

    def notice(self, line: LogLine) -> None:
        """Follow the service's log to the port that it announces."""
        if (port := listening_port(line)) is not None:
            self.lives += 1
            self.port = port


class Aim:
    """One thread's connection to the target, renewed with each life."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._life = 0
        self._client: Client | None = None

    def client(self) -> Client | None:
        """The connection to the present life; None while there is none."""
        port, life = self._target.port, self._target.lives
        if port is None:
            return None
        if self._client is None or life != self._life:
            self.close()
            self._client, self._life = Client(port), life
        return self._client

    def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            self._client.close()


class Load:
    """`rate` POSTs a second from `threads` connections while it is entered.

    :param longest: the durations are drawn from 0 to this, in seconds.
    :param label: begins the name of every task.
    """

    def __init__(
        self,
        target: Target,
        ledger: Ledger,
        *,
        rate: float,
        seed: int,
        threads: int = 8,
        longest: int = 3,
        label: str = "load",
    ) -> None:
        self._target = target
        self._ledger = ledger
        self._interval = threads / rate
        self._longest = longest
        self._over = Event()
        self._threads = [
            Thread(target=self._send, args=(f"{label}-{number}", Random(f"{seed}-{number}")))
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _send(self, label: str, random: Random) -> None:
        aim = Aim(self._target)
        due = time.monotonic() + self._interval * random.random()
        for number in count():
            # What was missed while the service was down is not made up for.
            due = max(due + self._interval, time.monotonic() - self._interval)
            if self._over.wait(max(0, due - time.monotonic())):
                break
            duration = random.randint(0, self._longest)
            delay = random.choice(DELAYS)
            if (client := aim.client()) is not None:
                self._ledger.submit(client, f"{label}-{number}", duration, delay)
        aim.close()
