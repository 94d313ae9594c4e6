"""Which blocks are finished: a text file that a crash can at most leave torn at its end.

A line holds the block's number, the CRC-32 of the block in each of its files, and the CRC-32 of the line so far, which
begins with what ties it to its plan. A line without checksums takes the block back. Lines that do not add up are passed
over.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from zlib import crc32

_STRUCK = "-"


def read_journal(text: bytes, tie: int = 0) -> dict[int, tuple[int, ...]]:
    """Return the checksums of each finished block, by its number.

    Args:
        text: The journal.
        tie: What ties it to its plan.

    Raises:
        ValueError: Not one line adds up: it is another plan's.
    """
    finished: dict[int, tuple[int, ...]] = {}
    lines = text.split(b"\n")[:-1]
    entries = [entry for entry in (_entry_of(line, tie) for line in lines) if entry is not None]
    if lines and not entries:
        raise ValueError("it is not the journal of the plan beside it")
    for number, sums in entries:
        if sums is None:
            finished.pop(number, None)
        else:
            finished[number] = sums
    return finished


def drop_torn_line(file: int, text: bytes) -> None:
    """Cut a line off that was torn at the end of a journal, whose text this is; what is appended comes behind it."""
    os.ftruncate(file, text.rfind(b"\n") + 1)
    os.lseek(file, 0, os.SEEK_END)


def lines_of(blocks: Mapping[int, tuple[int, ...] | None], tie: int = 0) -> bytes:
    """Return lines that tell of finished blocks, and of those that are taken back (``None``)."""
    return b"".join(_line(number, sums, tie) for number, sums in blocks.items())


def append(file: int, text: bytes) -> None:
    """Append lines, and wait until they are on the disk."""
    write_all(file, text)
    sync(file)


def write_all(file: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write all of some bytes at an offset, or at the end."""
    view = memoryview(data)
    while view:
        n_bytes = os.write(file, view) if offset is None else os.pwrite(file, view, offset)
        view, offset = view[n_bytes:], None if offset is None else offset + n_bytes


def sync(file: int) -> None:
    """Wait until what was written to a file is on the disk."""
    getattr(os, "fdatasync", os.fsync)(file)


def sync_path(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _line(number: int, sums: Iterable[int] | None, tie: int) -> bytes:
    """Return a line."""
    told = _STRUCK if sums is None else ",".join(f"{value:08x}" for value in sums)
    start = f"{number} {told}".encode()
    return start + f" {crc32(start, tie):08x}\n".encode()


def _entry_of(line: bytes, tie: int) -> tuple[int, tuple[int, ...] | None] | None:
    """Read a line; ``None`` if it does not add up."""
    start, _, own = line.rpartition(b" ")
    try:
        if int(own, 16) != crc32(start, tie) or len(own) != 8:
            return None
        number, _, told = start.decode().partition(" ")
        return int(number), None if told == _STRUCK else tuple(int(value, 16) for value in told.split(","))
    except ValueError:
        return None
