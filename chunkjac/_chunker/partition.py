"""Blocks of directions that never change, for files and for processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil

from chunkjac._chunker.slices import Segment

# A tensor of many directions has so many blocks at least.
_N_BLOCKS = 64


@dataclass(frozen=True)
class Partition:
    """Hold blocks of directions, numbered from zero; none has those of two tensors.

    Attributes:
        sizes: How many directions each tensor has.
        block_sizes: How many of each make a block; what is left over makes a smaller one.
    """

    sizes: tuple[int, ...]
    block_sizes: tuple[int, ...]

    @classmethod
    def of(cls, sizes: Sequence[int], chunk_size: int, most: int) -> Partition:
        """Divide directions so that each block is a few whole chunks.

        Args:
            sizes: How many directions each tensor has.
            chunk_size: How many directions are computed at once.
            most: How many directions a block has at most, unless one chunk has more.
        """
        n_chunks = [max(1, min(most, ceil(size / _N_BLOCKS)) // chunk_size) for size in sizes]
        return cls(tuple(sizes), tuple(n * chunk_size for n in n_chunks))

    @property
    def n_blocks(self) -> int:
        """Return how many blocks there are."""
        return self._first_blocks[-1]

    def block(self, number: int) -> slice:
        """Return the directions of a block, numbered through all tensors."""
        part = self.part(number)
        first = self._first_directions[part.leaf]
        return slice(first + part.elements.start, first + part.elements.stop)

    def part(self, number: int) -> Segment:
        """Return the tensor of a block, and which of its directions are there."""
        tensor = bisect_right(self._first_blocks, number) - 1
        start = (number - self._first_blocks[tensor]) * self.block_sizes[tensor]
        stop = min(start + self.block_sizes[tensor], self.sizes[tensor])
        return Segment(tensor, slice(0, stop - start), slice(start, stop))

    def blocks(self) -> Iterator[slice]:
        """Yield the directions of all blocks, in order."""
        return map(self.block, range(self.n_blocks))

    def missing(self, finished: Container[int]) -> Iterator[int]:
        """Yield the numbers of the blocks that are not finished, in order."""
        return (number for number in range(self.n_blocks) if number not in finished)

    @cached_property
    def _first_blocks(self) -> tuple[int, ...]:
        """Return the number of each tensor's first block, and how many blocks there are."""
        return tuple(accumulate((-(-n // size) for n, size in zip(self.sizes, self.block_sizes)), initial=0))

    @cached_property
    def _first_directions(self) -> tuple[int, ...]:
        """Return the number of each tensor's first direction, and how many directions there are."""
        return tuple(accumulate(self.sizes, initial=0))
