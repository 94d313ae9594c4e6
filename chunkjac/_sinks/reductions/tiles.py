"""The sums and tiles that make a Gram matrix of blocks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.utils._pytree import tree_leaves, tree_unflatten

from chunkjac._modes import Mode, block_leaves
from chunkjac._problem import Leaf
from chunkjac._sinks.reductions.reduction import ReducingSink, starts_of
from chunkjac._tensors import Tensors, rows_of

# A product of a few rows with a million elements each adds them up one after the other in single precision: relative
# errors of 5e-5, and of 1e-6 in parts of this size (MKL, torch 2.13).
_PART = 2**14

# The products are made symmetric in strips of so many rows.
_STRIP = 64


class Tiled(ReducingSink):
    """Hold a tile of rows, and multiply it with all rows that come after it; then the next tile.

    Args:
        mode: What makes the rows.
        products: Where the products go, the upper triangle first.
        tile_size: How many rows are held.
        is_cross: Whether the rows are those of two points, and each is multiplied with those of the other only.
    """

    def __init__(self, mode: Mode, products: torch.Tensor, tile_size: int, *, is_cross: bool) -> None:
        self._mode = mode
        self._products = products
        self._first_column = len(products) if is_cross else 0
        self._is_cross = is_cross
        self._tile: Tensors = tuple(leaf.empty(tile_size) for leaf in block_leaves(mode))
        self._tile_size = tile_size
        self._start = 0  # of the tile
        self.begin_again()

    def begin_again(self) -> None:
        """Begin with the first tile."""
        total, n_rows = self._mode.directions.n, len(self._products)
        self._ahead: list[tuple[slice, bool]] = []  # which rows come next, and whether they are held
        for start in range(0, n_rows, max(1, self._tile_size)):
            stop = min(start + self._tile_size, n_rows)
            self._ahead.append((slice(start, stop), True))
            others = slice(max(stop, self._first_column), total)
            if others.start < total:
                self._ahead.append((others, False))

    def missing(self, _total: int) -> list[slice]:
        """Return the rows that are to be computed, in order; most of them come several times."""
        return [span for span, _ in self._ahead]

    def places(self, chunk: slice) -> Tensors | None:
        """Return the rows' places in the tile, if they are to be held."""
        if not self._ahead[0][1]:
            return None
        start = self._ahead[0][0].start
        return tuple(rows[chunk.start - start : chunk.stop - start] for rows in self._tile)

    def write(self, chunk: slice, block: Tensors) -> None:
        """Multiply a block with the tile, or with what the tile holds so far."""
        span, is_held = self._ahead[0]
        if is_held:
            self._start = span.start
            for place, values in zip(self.places(chunk) or (), block):
                if place.data_ptr() != values.data_ptr():
                    place.copy_(values)
        if not (is_held and self._is_cross):
            self._multiply(chunk, block, n_rows=chunk.stop - span.start if is_held else None)
        if chunk.stop == span.stop:
            del self._ahead[0]

    def _multiply(self, chunk: slice, block: Tensors, n_rows: int | None) -> None:
        """Multiply a block with so many rows of the tile; all of them if it is full."""
        n_rows = min(len(self._tile[0]), len(self._products) - self._start) if n_rows is None else n_rows
        columns = slice(chunk.start - self._first_column, chunk.stop - self._first_column)
        place = self._products[self._start : self._start + n_rows, columns]
        place.zero_()
        for held, rows in zip(self._tile, block):
            _add_product(place, rows_of(held[:n_rows]), rows_of(rows))

    def release(self) -> None:
        """Keep the tile: what it holds is needed."""

    def close(self) -> None:
        """Let go of the tile."""
        self._tile = ()

    def result(self) -> torch.Tensor:
        """Return the products."""
        return self._products if self._is_cross else mirrored(self._products)


class AddedUp(ReducingSink):
    """Add up what each block gives: the sum of its rows' products with themselves.

    Args:
        mode: What makes the blocks.
        products: Where the products go, zeros so far.
        is_cross: Whether the values of a direction are those of two points.
    """

    def __init__(self, mode: Mode, products: torch.Tensor, *, is_cross: bool) -> None:
        self._mode = mode
        self._products = products
        self._is_cross = is_cross

    def begin_again(self) -> None:
        """Let the sums be zeros again."""
        self._products.zero_()

    def write(self, _chunk: slice, block: Tensors) -> None:
        """Add a block's products."""
        parts = [rows_of(rows).to(self._products) for rows in block]  # all that takes memory
        leaves = block_leaves(self._mode)
        half = n_of_first_point(self._mode) if self._is_cross else 0
        for place, left, right in _pairs(self._products, leaves, parts, half):
            place.addmm_(left.mT, right)

    def result(self) -> torch.Tensor:
        """Return the products."""
        return self._products if self._is_cross else mirrored(self._products)


def _pairs(
    products: torch.Tensor, leaves: Sequence[Leaf], parts: Sequence[torch.Tensor], half: int
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return the parts that are multiplied, and the place of their products: the upper triangle's, or all."""
    starts = starts_of(leaves)
    places = [slice(start, stop) for start, stop in pairwise(starts)]
    n_first = starts[half]
    return [
        (products[places[i], places[j].start - n_first : places[j].stop - n_first], parts[i], parts[j])
        for i in range(half or len(leaves))
        for j in range(half or i, len(leaves))
    ]


def _add_product(place: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add the products of rows in place, a part of their elements at a time."""
    for start in range(0, left.shape[1], _PART):
        part = slice(start, start + _PART)
        place.addmm_(left[:, part].to(place), right[:, part].to(place).mT)


def mirrored(matrix: torch.Tensor) -> torch.Tensor:
    """Copy the upper triangle of a square matrix to the lower one, in place; that takes no memory."""
    for start in range(0, len(matrix), _STRIP):
        stop = min(start + _STRIP, len(matrix))
        for i in range(start, stop - 1):
            matrix[i + 1 : stop, i] = matrix[i, i + 1 : stop]
        matrix[stop:, start:stop] = matrix[start:stop, stop:].mT
    return matrix


def n_of_first_point(mode: Mode) -> int:
    """Return how many of the outputs are those of the first of two points, which need not have the same tree."""
    first, _ = tree_unflatten(list(mode.outputs.leaves), mode.outputs.spec)
    return len(tree_leaves(first))
