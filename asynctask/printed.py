"""What handlers print, in Twisted's log: each line as it would stand in a terminal in the end."""

import sys
import threading
from typing import Any, AnyStr, Final

from twisted.logger import LoggingFile, LogLevel

LONGEST: Final = 10_000
"""Characters after which a line that is not ended is told all the same."""


class Printed(LoggingFile):
    """In place of one of Twisted's, which keeps whatever is printed until somebody ends the line.

    Each thread has a line of its own. Of one that is drawn anew, as a bar of progress is, the last state
    is told.

    :param file: which has been standard output, or error.
    """

    def __init__(self, file: LoggingFile) -> None:
        super().__init__(file.log, file.level, file.encoding)
        self._begun = threading.local()

    def fileno(self) -> int:  # type: ignore[override]
        """That of the file which Python has begun with: what needs a descriptor goes there, past the log.

        :raises OSError: there was none, and its number may be another file's by now.
        """
        real = sys.__stderr__ if self.level is LogLevel.error else sys.__stdout__
        return super().fileno() if real is None else real.fileno()

    def write(self, message: AnyStr) -> None:
        """See `LoggingFile`."""
        text = message.decode(self._encoding) if isinstance(message, bytes) else message
        *lines, last = (getattr(self._begun, "line", "") + text).split("\n")
        last = _latest(last)
        if len(last) > LONGEST:
            lines.append(last)
            last = ""
        self._begun.line = last
        for line in lines:
            super().write(_latest(line).removesuffix("\r") + "\n")


def _latest(line: str) -> str:
    """What is there of a line after its last return, which another one may follow."""
    return line[line.rfind("\r", 0, -1) + 1 :]


def listen() -> None:
    """From now on, have it from where Twisted has put its own."""
    for name in ("stdout", "stderr"):
        file: Any = getattr(sys, name)
        if type(file) is LoggingFile:
            setattr(sys, name, Printed(file))
