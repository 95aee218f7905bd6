"""Names of receivers to addresses, in threads of our own: a slow name must not hold up anybody's thread."""

import socket
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from asynctask.deliveries import NoAnswer
from asynctask.fairqueue import AT_ONCE
from asynctask.threads import NotStartedError, Threads

MAX_ABANDONED: Final = 128
"""Threads that may hang in a name that was given up: ``getaddrinfo`` cannot be told to end."""

NOT_NOW: Final = "No name can be resolved now"

Resolve = Callable[..., list[tuple[Any, ...]]]


class Resolver:
    """Resolves names; each delivery asks once.

    :param from_thread: ``reactor.callFromThread``.
    :param resolve: as `socket.getaddrinfo`.
    """

    def __init__(self, from_thread: Callable[..., object], resolve: Resolve = socket.getaddrinfo) -> None:
        self._threads = Threads(AT_ONCE, from_thread)
        self._resolve = resolve

    def lookup(self, host: str, port: int) -> Deferred[list[str]]:
        """The addresses of a host, the most promising first (RFC 6724).

        A cancel gives up the thread that asks.

        :raises NoAnswer: it has none, as far as is known.
        """
        if isIPAddress(host) or isIPv6Address(host):
            return succeed([host])
        if self._threads.abandoned >= MAX_ABANDONED:
            return fail(NoAnswer(NOT_NOW))

        def found(infos: list[tuple[Any, ...]]) -> None:
            addresses.callback(list(dict.fromkeys(str(info[4][0]) for info in infos)))

        def failed(failure: Failure) -> None:
            # UnicodeError: a label that is empty or too long.
            failure.trap(OSError, UnicodeError)
            addresses.errback(NoAnswer(f"The name '{host[:255]}' cannot be resolved"))

        try:
            work = self._threads.run(lambda: self._resolve(host, port, type=socket.SOCK_STREAM))
        except NotStartedError:
            return fail(NoAnswer(NOT_NOW))
        addresses: Deferred[list[str]] = Deferred(lambda _: work.abandon())
        work.deferred.addCallbacks(found, failed).addErrback(addresses.errback)
        return addresses

    def stop(self) -> None:
        """Let the threads end; the exit waits for none of them."""
        self._threads.stop()
