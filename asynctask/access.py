"""A line in the log for every request, where somebody asks for it."""

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

from asynctask.logqueue import Line

log = Logger(namespace="asynctask.access")

_REQUEST: Final = Line(log, "Request", "method", "path", "status", "bytes", "ms", "client", long=True)

Access = Callable[[bytes, bytes, int, int, float, Any], object]
"""Is told method, target, status, bytes of the answer's body, seconds and the client's address."""

CLIENT_LEFT: Final = 499
"""The status under which a request is counted whose client left before the answer."""


def log_access(method: bytes, uri: bytes, status: int, sent: int, seconds: float, client: Any) -> None:
    """Log that a request is over.

    :param uri: empty, as the method, where no request could be read.
    :param client: an address; that of a unix socket has no host.
    """
    _REQUEST.write(
        method.decode("latin-1"),
        uri.decode("utf-8", "backslashreplace"),
        status,
        sent,
        round(seconds * 1_000, 1),
        getattr(client, "host", None),
    )
