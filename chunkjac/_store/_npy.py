"""The files with values: their headers, their lengths, and what may have happened to them."""

from __future__ import annotations

import errno
import os
from functools import cache
from math import prod
from pathlib import Path

from chunkjac._errors import StoreError
from chunkjac._store._layout import Part


@cache
def header_of(part: Part) -> bytes:
    """Return what NumPy reads at the beginning of a file."""
    from io import BytesIO

    from numpy.lib import format as npy

    text = BytesIO()
    npy.write_array_header_1_0(text, {"descr": part.dtype, "fortran_order": part.fortran_order, "shape": part.shape})
    return text.getvalue()


def end_of(part: Part, n_directions: int) -> int:
    """Return where so many directions end in a file, in bytes."""
    return len(header_of(part)) + n_directions * part.direction_bytes


def whole_bytes(part: Part) -> int:
    """Return how long a file is."""
    import numpy as np

    return len(header_of(part)) + prod(part.shape) * np.dtype(part.dtype).itemsize


def found_bytes(path: Path, part: Part) -> int:
    """Return how long a file is that may have lost its end, or all of it.

    Raises:
        StoreError: It is something else than what was made.
    """
    header = header_of(part)
    try:
        with path.open("rb") as file:
            start, n_bytes = file.read(len(header)), os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise StoreError(f"{str(path)!r} cannot be read: {error.strerror}.") from error
    if not header.startswith(start):
        raise StoreError(f"{str(path)!r} is not as it was made: its header differs; compute it at another path.")
    if n_bytes > whole_bytes(part):
        raise StoreError(
            f"{str(path)!r} is not as it was made: it has {n_bytes} bytes instead of {whole_bytes(part)}; compute it "
            "at another path."
        )
    return n_bytes


def reserve(file: int, n_bytes: int, path: Path) -> None:
    """Take room on the disk.

    Raises:
        StoreError: There is too little.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, n_bytes)
        else:
            os.ftruncate(file, n_bytes)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreError(
                f"{str(path)!r} needs {n_bytes} bytes, and there is no room for them: {error.strerror}; free some, or "
                "give another path."
            ) from error
        os.ftruncate(file, n_bytes)  # a file system that cannot reserve
