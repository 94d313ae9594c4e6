"""What the C library has given out: a cheap look at what an evaluation keeps, on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


class _Mallinfo2(ctypes.Structure):
    """Mirror ``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def heap_bytes() -> int | None:
    """Return the bytes that malloc has given out to the process; ``None`` where it cannot be asked.

    One call takes 1-2 microseconds, and 30 where memory is in many pieces. All threads' memory is in it, and what
    torch keeps beside tensors; glibc 2.33 and newer tell it.
    """
    ask = _mallinfo2()
    if ask is None:
        return None
    info = ask()
    return int(info.uordblks + info.hblkhd)


def tells_heap() -> bool:
    """Tell whether malloc can be asked."""
    return _mallinfo2() is not None


@cache
def _mallinfo2() -> Callable[[], _Mallinfo2] | None:
    """Find the function in the C library."""
    try:
        found = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return None
    found.restype = _Mallinfo2
    return found
