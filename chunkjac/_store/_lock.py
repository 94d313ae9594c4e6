"""One writer at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import os


def lock(file: int) -> bool:
    """Lock a file; return whether that could be done at once."""
    import fcntl  # not on Windows, where no path is taken

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def close_locked(file: int) -> None:
    """Unlock a file and close it: closing alone leaves the lock to children that were forked meanwhile."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)
