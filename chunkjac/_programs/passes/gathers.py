"""The first operation on one-hot seeds, written from the direction's number without them.

Theorem: a linear map of a vector that is one at c and zero elsewhere is the map's column c. A product's are the
rows of its other factor; a transposed convolution's are its filters, each at its pixel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch


class Seeded(ABC):
    """Stand for an operation that sees seeds only, beside a constant."""

    @abstractmethod
    def __call__(self, start: int, constant: torch.Tensor, *, out: torch.Tensor) -> None:
        """Write what the operation gives for the directions from ``start`` on, as many as ``out`` has room for."""


@dataclass(frozen=True, slots=True)
class Gather(Seeded):
    """Take the rows of a product, ``(columns, width)`` being its other factor.

    It takes as many steps as the result has elements, not ``columns`` times as many.

    Attributes:
        first: The number of the first direction that is in this leaf.
        n_rows: How many rows of the product a seed has.
        n_columns: How many elements of a seed are in a row.
    """

    first: int
    n_rows: int
    n_columns: int

    def __call__(self, start: int, constant: torch.Tensor, *, out: torch.Tensor) -> None:
        """Write the product."""
        k = out.shape[0] // self.n_rows
        begin, end = start - self.first, start - self.first + k
        low, high = max(begin, 0), min(end, self.n_rows * self.n_columns)
        if self.n_rows > 1 or (low, high) != (begin, end):
            out.zero_()
        for directions, row, columns in lines(begin, low, high, self.n_columns):
            out.view(k, self.n_rows, -1)[directions, row].copy_(constant[columns])


@dataclass(frozen=True, slots=True)
class Patch(Seeded):
    """Put the filters of a transposed convolution, ``(channels, others, kernel, kernel)``, at the pixels of the seeds.

    Attributes:
        first: The number of the first direction that is in this leaf.
        shape: Channels, rows and columns of a seed.
        stride: How far apart the filters of neighbouring pixels are.
        padding: How far the first is outside of the image.
    """

    first: int
    shape: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def __call__(self, start: int, constant: torch.Tensor, *, out: torch.Tensor) -> None:
        """Write the images."""
        out.zero_()
        n_channels, n_rows, n_columns = self.shape
        begin = start - self.first
        low, high = max(begin, 0), min(begin + len(out), n_channels * n_rows * n_columns)
        for directions, line, columns in lines(begin, low, high, n_columns):
            channel, row = divmod(line, n_rows)
            self._write(out[directions], constant[channel], row, range(columns.start, columns.stop))

    def _write(self, out: torch.Tensor, filters: torch.Tensor, row: int, columns: range) -> None:
        """Write the filters for pixels in a row: at once where they are whole, one by one at the borders."""
        height, width = out.shape[2:]
        wide = filters.shape[2]
        top = row * self.stride[0] - self.padding[0]
        filters = filters[:, max(0, -top) : max(0, height - top)]
        whole = [column for column in columns if 0 <= self._left(column) <= width - wide]
        for column in columns:
            if not 0 <= self._left(column) <= width - wide:
                left = self._left(column)
                part = filters[..., max(0, -left) : max(0, width - left)]
                if part.numel():
                    image = out[column - columns.start, :, max(0, top) :, max(0, left) :]
                    image[:, : part.shape[1], : part.shape[2]] = part
        if whole and filters.numel():
            d, c, h, w = out.stride()
            first = out[whole[0] - columns.start :, :, max(0, top) :, self._left(whole[0]) :]
            step = d + self.stride[1] * w  # from one direction to the next, and as many columns on
            places = first.as_strided((len(whole), *filters.shape), (step, c, h, w))
            places.copy_(filters.expand(len(whole), *filters.shape))

    def _left(self, column: int) -> int:
        return column * self.stride[1] - self.padding[1]


def lines(begin: int, low: int, high: int, width: int) -> Iterator[tuple[slice, int, slice]]:
    """Yield the parts of a range of directions that lie in one line.

    Args:
        begin: The first direction of a chunk, which may be before those of the leaf.
        low: The first of the leaf's.
        high: The one behind the last.
        width: How many are in a line.

    Yields:
        Which of the chunk's directions they are, their line, and their places in that.
    """
    while low < high:
        line, column = divmod(low, width)
        stop = min(high, (line + 1) * width)
        yield slice(low - begin, stop - begin), line, slice(column, column + stop - low)
        low = stop
