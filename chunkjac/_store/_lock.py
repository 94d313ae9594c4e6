"""One writer at a time: a lock that ends with the process that holds it."""

from __future__ import annotations


def lock(file: int) -> bool:
    """Lock a file; return whether that could be done at once."""
    import fcntl  # not on Windows, where no path is taken

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
