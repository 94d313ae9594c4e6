"""Gram matrices: the products of all rows with one another, or of all columns.

Blocks of columns add up to the products of rows, and blocks of rows to those of columns. The products of rows
from blocks of rows need every pair of blocks: a tile of rows is held, and all rows after it stream past.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from chunkjac._chunker import TILE_SHARES, even_chunk, tile_bytes
from chunkjac._errors import ArgumentError, ChunkjacError
from chunkjac._modes import Mode, block_leaves
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.reductions.reduction import ReducingSink, starts_of, sum_dtype
from chunkjac._sinks.reductions.tiles import AddedUp, Tiled, n_of_first_point


class ManyTilesError(ChunkjacError):
    """Say that a tile would not have all rows, where another way was asked for then.

    Attributes:
        products: The products as they would be, without values.
    """

    def __init__(self, products: torch.Tensor) -> None:
        super().__init__()
        self.products = products


@dataclass(frozen=True)
class Gram(Destination):
    """Multiply a Jacobian with its transpose.

    Attributes:
        of_outputs: Whether rows are multiplied (``J J^T``), or columns (``J^T J``).
        is_cross: Whether the outputs are those of two points one after the other, and only the products of
            the first half with the second are wanted.
        tile_share: How much of the room a tile may take; it has one row at least.
        may_be_left: Whether a function that draws no random numbers may be left for another way.
        far_apart: Tells whether no step of finite differences suits both points, if none was given.
    """

    of_outputs: bool
    is_cross: bool = False
    tile_share: float = TILE_SHARES[0]
    may_be_left: bool = False
    far_apart: Callable[[], bool] | None = None
    name = "a Gram matrix"

    def held_bytes(self, mode: Mode, left_bytes: int) -> int:
        """Return what the products and the tile take; see :class:`Destination`."""
        products_bytes = self._shape(mode).numel() * _dtype(mode).itemsize
        return products_bytes + self._tile_size(mode, left_bytes) * _row_bytes(mode)

    def sink(self, mode: Mode, allowance: Allowance) -> ReducingSink:
        """Return what takes the blocks; see :class:`Destination`.

        Raises:
            ManyTilesError: Rows would be computed several times, and may be left.
            ArgumentError: Finite differences have no step for both points.
        """
        if mode.name == "finite-difference" and self.far_apart is not None and self.far_apart():
            raise ArgumentError(
                "x2 has elements of another size than those of x, and finite differences take one step for both; give "
                "step, an absolute one that suits both."
            )
        self._leave_if_slow(mode, allowance.n_bytes)
        device = mode.directions.leaves[0].device
        products = torch.zeros(self._shape(mode), dtype=_dtype(mode), device=device)
        if self._is_tiled(mode):
            return Tiled(mode, products, self._tile_size(mode, allowance.n_bytes), is_cross=self.is_cross)
        return AddedUp(mode, products, is_cross=self.is_cross)

    def _leave_if_slow(self, mode: Mode, left_bytes: int) -> None:
        """Raise an error if rows would be computed several times, and there is a way that may be faster.

        Numbers in half precision stay: that way rounds what is added up. So do finite differences, which are taken
        where derivatives tell nothing.
        """
        leaves = (*mode.outputs.leaves, *mode.problem.leaves)
        is_half = any(leaf.dtype.itemsize < torch.float32.itemsize for leaf in leaves)
        one_tile = not self._is_tiled(mode) or self._tile_size(mode, left_bytes) >= self._shape(mode)[0]
        has_derivatives = mode.name != "finite-difference"
        if has_derivatives and self.may_be_left and not (one_tile or is_half or mode.problem.draws.drew):
            raise ManyTilesError(torch.empty(self._shape(mode), dtype=_dtype(mode), device="meta"))

    def _is_tiled(self, mode: Mode) -> bool:
        """Tell whether the blocks' directions are what is multiplied."""
        return mode.by_rows == self.of_outputs

    def _shape(self, mode: Mode) -> torch.Size:
        """Return the shape of the products."""
        leaves = mode.outputs.leaves if self.of_outputs else mode.problem.leaves
        total = starts_of(leaves)[-1]
        if not self.is_cross:
            return torch.Size((total, total))
        n_first = starts_of(leaves)[n_of_first_point(mode)]
        return torch.Size((n_first, total - n_first))

    def _tile_size(self, mode: Mode, left_bytes: int) -> int:
        """Return how many rows are held.

        Each tile takes another pass over the rows after it, so few large tiles are fastest: one that holds all rows
        takes what the Jacobian and one product take. It has its share of the room at most.
        """
        if not self._is_tiled(mode):
            return 0
        n_rows = self._shape(mode)[0]
        row_bytes = max(1, _row_bytes(mode))
        products_bytes = self._shape(mode).numel() * _dtype(mode).itemsize
        fitting = tile_bytes(left_bytes - products_bytes, self.tile_share) // row_bytes
        return even_chunk(n_rows, max(1, min(fitting, n_rows))) if n_rows else 0


def _row_bytes(mode: Mode) -> int:
    """Return the bytes of what a direction makes."""
    return sum(leaf.n_bytes for leaf in block_leaves(mode))


def _dtype(mode: Mode) -> torch.dtype:
    """Return the type of the products."""
    return sum_dtype((*mode.outputs.leaves, *mode.problem.leaves))
