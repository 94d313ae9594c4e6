"""Gram matrices: the products of all rows of a Jacobian with one another, or of all columns.

Blocks of columns add up to the products of rows, and blocks of rows to those of columns. The products of rows
from blocks of rows need every pair of blocks: a tile of rows is held, and all rows after it stream past.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.utils._pytree import tree_leaves, tree_unflatten

from chunkjac._chunker import even_chunk
from chunkjac._errors import ArgumentError, ChunkjacError
from chunkjac._modes import Mode, block_leaves, n_directions, seed_leaves
from chunkjac._problem import Leaf, RandomState, check_computed
from chunkjac._sinks.reductions.reduction import ReducingSink, Reduction, starts_of, sum_dtype
from chunkjac._tensors import Tensors, rows_of

# Tiles of so many bytes are held whatever the Jacobian has: chunks take as much.
_SMALL_BYTES = 64 * 2**20

# A product of a few rows with a million elements each adds them up one after the other in single precision: relative
# errors of 5e-5, and of 1e-6 in parts of this size (MKL, torch 2.13).
_PART = 2**14

# The products are made symmetric in strips of so many rows.
_STRIP = 64


class ManyTilesError(ChunkjacError):
    """Say that a tile would not have all rows, where another way was asked for then.

    Attributes:
        shape: The shape of the products.
        dtype: Their type.
    """

    def __init__(self, shape: torch.Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype


@dataclass(frozen=True)
class Gram(Reduction):
    """Multiply a Jacobian with its transpose.

    Attributes:
        of_outputs: Whether rows are multiplied (``J J^T``), or columns (``J^T J``).
        is_cross: Whether the outputs are those of two points one after the other, and only the products of
            the first half with the second are wanted.
        tile_share: How much of the room a tile may take; it has one row at least.
        before: What random generators were before the function was evaluated, if one that draws nothing may be
            left for another way.
        far_apart: Tells whether no step of finite differences suits both points, if none was given.
    """

    of_outputs: bool
    is_cross: bool = False
    tile_share: float = 0.5
    before: RandomState | None = None
    far_apart: Callable[[], bool] | None = None
    name = "a Gram matrix"

    def held_bytes(self, mode: Mode, room_bytes: int) -> int:
        """Return what the products and the tile take; see :class:`Reduction`."""
        products_bytes = self._shape(mode).numel() * _dtype(mode).itemsize
        return products_bytes + self._tile_size(mode, room_bytes) * _row_bytes(mode)

    def sink(self, mode: Mode, room_bytes: int) -> ReducingSink:
        """Return what takes the blocks; see :class:`Reduction`.

        Raises:
            ManyTilesError: Rows would be computed several times, and may be left.
            ArgumentError: Finite differences have no step for both points.
        """
        if mode.name == "finite-difference" and self.far_apart is not None and self.far_apart():
            raise ArgumentError(
                "x2 has elements of another size than those of x, and finite differences take one step for both; give "
                "step, an absolute one that suits both."
            )
        self._leave_if_slow(mode, room_bytes)
        device = seed_leaves(mode)[0].device
        products = torch.zeros(self._shape(mode), dtype=_dtype(mode), device=device)
        if self._is_tiled(mode):
            return Tiled(mode, products, self._tile_size(mode, room_bytes), is_cross=self.is_cross)
        return AddedUp(mode, products, is_cross=self.is_cross)

    def _leave_if_slow(self, mode: Mode, room_bytes: int) -> None:
        """Raise an error if rows would be computed several times, and there is a way that may be faster.

        Numbers in half precision stay: that way rounds what is added up. So do finite differences, which are taken
        where derivatives tell nothing.
        """
        leaves = (*mode.outputs.leaves, *mode.problem.leaves)
        is_half = any(leaf.dtype.itemsize < torch.float32.itemsize for leaf in leaves)
        one_tile = not self._is_tiled(mode) or self._tile_size(mode, room_bytes) >= self._shape(mode)[0]
        has_derivatives = mode.name != "finite-difference"
        if has_derivatives and self.before is not None and not (one_tile or is_half or self.before.has_moved()):
            raise ManyTilesError(self._shape(mode), _dtype(mode))

    def _is_tiled(self, mode: Mode) -> bool:
        """Tell whether the blocks' directions are what is multiplied."""
        return mode.by_rows == self.of_outputs

    def _shape(self, mode: Mode) -> torch.Size:
        """Return the shape of the products."""
        leaves = mode.outputs.leaves if self.of_outputs else mode.problem.leaves
        total = starts_of(leaves)[-1]
        if not self.is_cross:
            return torch.Size((total, total))
        n_first = starts_of(leaves)[_n_of_first_point(mode)]
        return torch.Size((n_first, total - n_first))

    def _tile_size(self, mode: Mode, room_bytes: int) -> int:
        """Return how many rows are held.

        Each tile takes another pass over the rows after it, so few large tiles are fastest. One takes its share of the
        room at most, and half of a Jacobian that is large: the whole is never held.
        """
        if not self._is_tiled(mode):
            return 0
        n_rows = self._shape(mode)[0]
        row_bytes = max(1, _row_bytes(mode))
        products_bytes = self._shape(mode).numel() * _dtype(mode).itemsize
        most_bytes = max(_SMALL_BYTES, n_rows * row_bytes // 2)
        fitting = min(int(self.tile_share * (room_bytes - products_bytes)), most_bytes) // row_bytes
        return even_chunk(n_rows, max(1, min(fitting, n_rows))) if n_rows else 0


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
        self._tile: Tensors = tuple(
            torch.empty((tile_size, *leaf.shape), dtype=leaf.dtype, device=leaf.device) for leaf in block_leaves(mode)
        )
        total = n_directions(mode)
        self._ahead: list[tuple[slice, bool]] = []  # which rows come next, and whether they are held
        for start in range(0, len(products), max(1, tile_size)):
            stop = min(start + tile_size, len(products))
            self._ahead.append((slice(start, stop), True))
            others = slice(max(stop, self._first_column), total)
            if others.start < total:
                self._ahead.append((others, False))
        self._start = 0  # of the tile

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
        check_computed(block, self._mode.problem.inputs)
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

    def write(self, _chunk: slice, block: Tensors) -> None:
        """Add a block's products."""
        check_computed(block, self._mode.problem.inputs)
        parts = [rows_of(rows).to(self._products) for rows in block]  # all that takes memory
        leaves = block_leaves(self._mode)
        half = _n_of_first_point(self._mode) if self._is_cross else 0
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


def _n_of_first_point(mode: Mode) -> int:
    """Return how many of the outputs are those of the first of two points, which need not have the same tree."""
    first, _ = tree_unflatten(list(mode.outputs.leaves), mode.outputs.spec)
    return len(tree_leaves(first))


def _row_bytes(mode: Mode) -> int:
    """Return the bytes of what a direction makes."""
    return sum(leaf.n_bytes for leaf in block_leaves(mode))


def _dtype(mode: Mode) -> torch.dtype:
    """Return the type of the products."""
    return sum_dtype((*mode.outputs.leaves, *mode.problem.leaves))
