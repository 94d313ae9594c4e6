"""A chunk cut at the leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chunkjac._problem import Leaf


@dataclass(frozen=True, slots=True)
class Segment:
    """Hold the part of a chunk that lies in one leaf.

    Attributes:
        leaf: The number of the leaf.
        rows: Where the part is in the chunk.
        elements: Where the part is in the flattened leaf.
    """

    leaf: int
    rows: slice
    elements: slice


def segments(chunk: slice, leaves: Sequence[Leaf]) -> Iterator[Segment]:
    """Yield the parts of a chunk, leaf by leaf.

    Directions are numbered through the leaves in order, each leaf in C order.
    """
    start = 0
    for number, leaf in enumerate(leaves):
        first, last = max(chunk.start, start), min(chunk.stop, start + leaf.numel)
        if first < last:
            rows = slice(first - chunk.start, last - chunk.start)
            yield Segment(number, rows, slice(first - start, last - start))
        start += leaf.numel
