"""Files beside the store that are ours, whatever somebody else has put in their place."""

import errno
import os
import stat
from pathlib import Path


def open_own(path: Path) -> int:
    """Open a file to read and write it; one that is new is this user's alone.

    :raises OSError: it cannot be opened; or it is a link, or no file: what is written to it might destroy
        another one.
    """
    try:
        descriptor = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600
        )
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "it is a link", str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return descriptor
