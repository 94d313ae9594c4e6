"""One writer at a time: a lock that ends with the process that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chunkjac._errors import StoreError
from chunkjac._store.files import open_own
from chunkjac._store.target import Target


@contextmanager
def locked_journal(target: Target, flags: int = 0) -> Iterator[int]:
    """Keep writers away; give the journal's descriptor.

    Raises:
        StoreError: The journal cannot be opened, or another process writes it.
    """
    file = None
    try:
        while file is None:
            file = open_locked(target.journal_path, flags)
    except BlockingIOError as error:
        raise StoreError(f"{target.given!r} is being written by another process; wait for it.") from error
    except OSError as error:
        raise StoreError(
            f"the journal {target.told(target.journal_path)!r} cannot be opened: {error.strerror}."
        ) from error
    try:
        yield file
    finally:
        close_locked(file)


def open_locked(path: Path, flags: int = 0) -> int | None:
    """Open a file and lock it at once; return nothing if it was removed meanwhile.

    Who gives up removes the file that it has locked; a lock on what is at no path any more keeps nobody away.

    Raises:
        BlockingIOError: Another process has the lock.
        OSError: The file cannot be opened, or its file system has no locks.
    """
    import fcntl  # not on Windows, where no path is taken

    file = open_own(path, os.O_RDWR | flags)
    is_kept = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_kept = _is_at(path, file)
    finally:
        if not is_kept:
            os.close(file)
    return file if is_kept else None


def close_locked(file: int) -> None:
    """Unlock a file and close it: closing alone leaves the lock to children that were forked meanwhile."""
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _is_at(path: Path, file: int) -> bool:
    """Tell whether a file that was opened is the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
