"""One piece of memory for intermediate results, in which what is dead makes room.

Fresh memory for each result costs more than writing to it: the system gives pages out one by
one, and zeroes them (64 MiB: 20 ms, of which the product itself takes 5, measured). Here all is laid out
once, for all chunks, and the bytes are known before the first.

Source:
    Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020
    ("greedy by size": the largest first, each at the lowest place that is free while it lives).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

# A cache line; accelerators' allocators give multiples of 512 bytes.
_ALIGNMENT = 512

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Life:
    """Hold how large something is, and when it is alive: from ``first`` to ``last``, both included."""

    n_bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Arena(Generic[T]):
    """Hold where each thing begins, and the bytes of all."""

    offsets: Mapping[T, int]
    n_bytes: int


def aligned(n_bytes: int) -> int:
    """Return the bytes of whole lines that so many take."""
    return -(-n_bytes // _ALIGNMENT) * _ALIGNMENT


def lay_out(lives: Mapping[T, Life]) -> Arena[T]:
    """Place things so that those that are alive at once do not overlap."""
    placed: list[tuple[int, int, Life]] = []  # where it begins, where it ends, when it lives; by the first
    offsets: dict[T, int] = {}
    for key, life in sorted(lives.items(), key=lambda item: -item[1].n_bytes):
        size = aligned(life.n_bytes)
        start = 0
        for other_start, other_end, other in placed:
            if other.first <= life.last and life.first <= other.last:
                if other_start >= start + size:
                    break
                start = max(start, other_end)
        offsets[key] = start
        insort(placed, (start, start + size, life), key=lambda place: place[0])
    return Arena(offsets, max((end for _, end, _ in placed), default=0))
