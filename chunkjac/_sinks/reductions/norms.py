"""Norms of rows and columns, and of the whole: no square is ever out of range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_unflatten

from chunkjac._modes import Mode, block_leaves
from chunkjac._problem import Leaf
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.reductions.reduction import ReducingSink, sum_dtype
from chunkjac._tensors import Tensors, rows_of, wide_type

# The squares of doubles within these limits add up without leaving their range.
_SMALL, _LARGE = 1e-140, 1e140


class NormsOf(Destination):
    """Take the norms of a Jacobian's rows and columns."""

    name = "norms"

    def held_bytes(self, mode: Mode, _left_bytes: int) -> int:
        """Return what the norms take; see :class:`Destination`."""
        leaves = (*mode.outputs.leaves, *mode.problem.leaves, *block_leaves(mode))  # the last: those of one block
        return sum(leaf.numel * wide_type(leaf.device).itemsize for leaf in leaves)

    def sink(self, mode: Mode, _allowance: Allowance) -> ReducingSink:
        """Return what takes the blocks; see :class:`Destination`."""
        return NormsSink(mode)


class NormsSink(ReducingSink):
    """Take the norm of each direction from its block, and collect those of the other axis.

    Args:
        mode: What makes the blocks.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._along = [_zeros(leaf) for leaf in mode.directions.leaves]
        self._across = [_zeros(leaf) for leaf in block_leaves(mode)]

    def begin_again(self) -> None:
        """Let the norms be zeros again."""
        for found in (*self._along, *self._across):
            found.zero_()

    def write(self, chunk: slice, block: Tensors) -> None:
        """Take the norms of a block."""
        own = [stable_norm(rows_of(rows), dim=1) for rows in block]
        others = [stable_norm(rows_of(rows), dim=0) for rows in block]
        norms = own[0]
        for more in own[1:]:
            norms = torch.hypot(norms, more.to(norms.device))
        for part in self._mode.directions.parts(chunk):
            self._along[part.leaf][part.elements] = norms[part.rows]
        for found, more in zip(self._across, others):
            torch.hypot(found, more, out=found)

    def result(self) -> Norms:
        """Return the norms, each like the outputs or inputs."""
        home = self._along[0].device
        whole = stable_norm(torch.cat([norms.to(home) for norms in self._along]), dim=0)
        along = _shaped(self._along, self._mode.directions.leaves)
        across = _shaped(self._across, block_leaves(self._mode))
        rows, columns = (along, across) if self._mode.by_rows else (across, along)
        leaves = (*self._mode.outputs.leaves, *self._mode.problem.leaves)
        return Norms(
            rows=tree_unflatten(rows, self._mode.outputs.spec),
            columns=tree_unflatten(columns, self._mode.problem.spec),
            frobenius=whole.to(sum_dtype(leaves)),
        )


def stable_norm(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Return Euclidean norms, in double precision where there is one.

    Squares of numbers in single precision are always in the range of double precision. Numbers whose own squares
    are not in range are divided by the largest of them first, as LAPACK's ``dlassq`` does; that takes memory, and
    is done where it is needed.

    Args:
        values: What has norms.
        dim: The dimension along which they are taken.
    """
    wide = wide_type(values.device)
    if not values.shape[dim]:
        return values.new_zeros(values.sum(dim).shape, dtype=wide)
    norms: torch.Tensor = torch.linalg.vector_norm(values, dim=dim, dtype=wide)
    if values.dtype != wide:
        return norms
    largest = torch.linalg.vector_norm(values, ord=torch.inf, dim=dim)
    risky = (largest > 0) & largest.isfinite() & ((largest < _SMALL) | (largest > _LARGE))
    if not bool(risky.any()):
        return norms
    scales = torch.where(risky, largest, 1.0)
    scaled: torch.Tensor = torch.linalg.vector_norm(values / scales.unsqueeze(dim), dim=dim)
    return scaled * scales


def _zeros(leaf: Leaf) -> torch.Tensor:
    """Return norms of nothing, one for each element."""
    return torch.zeros(leaf.numel, dtype=wide_type(leaf.device), device=leaf.device)


def _shaped(found: list[torch.Tensor], leaves: Sequence[Leaf]) -> list[torch.Tensor]:
    """Return norms in their leaves' shapes, in single precision at least."""
    return [norms.to(sum_dtype([leaf])).view(leaf.shape) for norms, leaf in zip(found, leaves)]


@dataclass(frozen=True, slots=True, eq=False)
class Norms:
    """Hold Euclidean norms of a Jacobian, in single precision at least.

    Attributes:
        rows: The norm of each row, in a tree of tensors like the outputs.
        columns: The norm of each column, in a tree of tensors like the inputs.
        frobenius: The norm of the whole, without dimensions.
    """

    rows: Any
    columns: Any
    frobenius: torch.Tensor
