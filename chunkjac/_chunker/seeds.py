"""Seeds in a buffer that is reused; never all of them at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chunkjac._chunker.directions import Directions
from chunkjac._chunker.slices import Segment
from chunkjac._problem import Leaf


class Rows:
    """Hold a buffer of rows for each leaf, made for the largest chunk so far."""

    def __init__(self, leaves: Sequence[Leaf]) -> None:
        self._leaves = leaves
        self._buffers: list[torch.Tensor] = []
        self._n_rows = 0

    def release(self) -> None:
        """Give the memory back."""
        self._buffers, self._n_rows = [], 0

    def _reserve(self, n_rows: int) -> None:
        """Make room for a number of rows, all of them blank."""
        if n_rows > self._n_rows:
            self.release()  # first, so that old and new are never both alive
            self._buffers = [self._blank(number, n_rows) for number in range(len(self._leaves))]
            self._n_rows = n_rows

    def _blank(self, number: int, n_rows: int) -> torch.Tensor:
        """Make the rows of one leaf."""
        raise NotImplementedError

    def _diagonal(self, segment: Segment, n_points: int = 1, stride: int = 0) -> torch.Tensor:
        """Return a view of the one element in each row that its direction is about, ``(n_points, rows)``.

        Args:
            segment: The directions.
            n_points: How many times they are there.
            stride: So many rows farther each time.
        """
        n_elements = self._leaves[segment.leaf].numel
        first = segment.rows.start * n_elements + segment.elements.start
        shape = n_points, segment.rows.stop - segment.rows.start
        strides = stride * n_elements, n_elements + (segment.elements.step or 1)
        return self._buffers[segment.leaf].as_strided(shape, strides, first)


class Seeds(Rows):
    """Give the seeds of chunks, one leaf beside the other.

    Only ones are written and erased. A chunk's seeds hold until the next chunk's are asked for.

    Args:
        directions: What they are.

    Memory:
        As many elements as the chunk has directions, times those of all leaves.
    """

    def __init__(self, directions: Directions) -> None:
        super().__init__(directions.leaves)
        self._directions = directions
        self._written: list[torch.Tensor] = []

    def batch(self, chunk: slice) -> tuple[torch.Tensor, ...]:
        """Return the seeds of a chunk, ``(k, *leaf.shape)`` for each leaf."""
        self._erase()
        n_rows = chunk.stop - chunk.start
        self._reserve(n_rows)
        for segment in self._directions.parts(chunk):
            ones = self._diagonal(segment)
            ones.fill_(1)
            self._written.append(ones)
        return tuple(buffer[:n_rows] for buffer in self._buffers)

    def combined(self, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return one seed that is the sum of all, each times its weight, in memory of its own."""
        seed = tuple(leaf.zeros() for leaf in self._leaves)
        for segment in self._directions.parts(slice(0, self._directions.n)):
            elements = seed[segment.leaf].view(-1)[segment.elements]
            elements += weights[segment.rows].to(elements.device, elements.dtype)
        return seed

    def release(self) -> None:
        """Give the memory back."""
        self._written = []
        super().release()

    def _erase(self) -> None:
        """Let all rows be zeros again, and let go of the buffers."""
        for ones in self._written:
            ones.zero_()
        self._written = []

    def _blank(self, number: int, n_rows: int) -> torch.Tensor:
        """Make rows of zeros."""
        return self._leaves[number].zeros(n_rows)
