"""A range of numbers cut where tensors meet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Segment:
    """Hold the part of a chunk that lies in one leaf: as many rows as elements.

    Attributes:
        leaf: The number of the leaf.
        rows: Where the part is in the chunk.
        elements: Where the part is in the flattened leaf.
    """

    leaf: int
    rows: slice
    elements: slice


def segments(chunk: slice, sizes: Sequence[int]) -> Iterator[Segment]:
    """Yield the parts of a range of elements, leaf by leaf.

    Args:
        chunk: The numbers of the elements, counted through the leaves in order, each leaf in C order.
        sizes: How many elements each leaf has.
    """
    start = 0
    for number, size in enumerate(sizes):
        first, last = max(chunk.start, start), min(chunk.stop, start + size)
        if first < last:
            rows = slice(first - chunk.start, last - chunk.start)
            yield Segment(number, rows, slice(first - start, last - start))
        start += size
