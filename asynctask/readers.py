"""The threads that read; where the system gives none, nobody waits for one."""

from collections.abc import Callable
from functools import partial
from threading import Lock, Thread
from typing import Any, Final, ParamSpec, TypeVar

from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from asynctask.problems import Unavailable
from asynctask.wire import in_a_line

READERS: Final = 4
"""Threads that read, each on a connection: what is read is short, and the cores are few."""

LONGEST: Final = 1.7
"""Seconds that somebody waits for his read: a client has its 503 within 2. What has waited longer is not
read at all, since whoever asked may have left, and others wait behind it."""

NO_ANSWER: Final = "The store does not answer now; try again later"

log = Logger(namespace="asynctask.store")

T = TypeVar("T")
P = ParamSpec("P")


class Readable:
    """Tells when reads begin to fail, and when they no longer do: the writer may not notice."""

    def __init__(self) -> None:
        self._noting = Lock()
        self._fails = False

    def note(self, error: Exception | None) -> None:
        """A read has failed, or not; from any thread."""
        if error is None and not self._fails:
            return
        with self._noting:
            before, self._fails = self._fails, error is not None
        if error is not None and not before:
            log.warn("Store cannot be read", error=in_a_line(getattr(error, "orig", error)))
        elif error is None and before:
            log.info("Store can be read again")


def _read(tell: Any, func: Callable[..., Any], *args: Any, **kw: Any) -> None:
    """As `ThreadPool` does it, but for what its closure and its frames leave to the collector."""
    try:
        done, result = True, func(*args, **kw)
    except BaseException:
        done, result = False, Failure()
    try:
        tell(done, result)
    finally:
        del tell, func, args, kw, result  # the frames of an error would hold who is told of it


class _Daemon(Thread):
    """One for which no program waits that has ended."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, daemon=True, **named)


class ReaderThreads(ThreadPool):
    """Threads that are started as they are needed."""

    threadFactory = _Daemon

    def __init__(self) -> None:
        super().__init__(0, READERS, "asynctask-reader")
        self._readable = Readable()

    def callInThreadWithCallback(
        self,
        onResult: Callable[[bool, T], object] | None,
        func: Callable[P, T],
        *args: P.args,
        **kw: P.kwargs,
    ) -> None:
        """See `ThreadPool`.

        :raises Unavailable: the system gives no more threads, or the store was closed.
        """
        if self.joined:
            raise Unavailable(NO_ANSWER)
        try:
            self._team.do(partial(_read, onResult, func, *args, **kw))
        except RuntimeError as error:
            # It would be waited for at the end.
            self.threads[:] = [thread for thread in self.threads if thread.ident is not None]
            self._readable.note(error)
            raise Unavailable(NO_ANSWER) from None
        self._readable.note(None)
