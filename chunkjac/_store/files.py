"""Files of ours, opened so that nothing else is: no link is followed, no pipe waited for."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# What is read as a whole is not larger. A plan of 200,000 files, or a journal of two million blocks, fits.
_MOST_BYTES = 2**26

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_own(path: Path, flags: int) -> int:
    """Open a file, if it is one and no link.

    Raises:
        OSError: It is not, for instance.
    """
    try:
        file = os.open(path, flags | _NO_LINKS, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, and none is followed") from error
        raise
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is no file that can be read and written")
    return file


def read_own(path: Path, most_bytes: int = _MOST_BYTES) -> bytes:
    """Return what is in a file that is not large.

    Raises:
        OSError: It is too large, for instance.
    """
    with open(open_own(path, os.O_RDONLY), "rb") as file:
        n_bytes = os.fstat(file.fileno()).st_size
        if n_bytes > most_bytes:
            raise OSError(errno.EFBIG, f"it has {n_bytes} bytes, and at most {most_bytes} are read")
        return file.read(most_bytes)


def make_own(path: Path, text: bytes) -> None:
    """Write a file that was not there, and wait until it is on the disk.

    Raises:
        FileExistsError: Something is there.
        OSError: The disk is full, for instance.
    """
    with open(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
        try:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            path.unlink()
            raise
