"""The diagonal of a Jacobian that has as many rows as columns."""

from __future__ import annotations

from typing import Any

from torch.utils._pytree import tree_unflatten

from chunkjac._chunker import ElementDirections
from chunkjac._errors import FunctionError
from chunkjac._modes import Mode, block_leaves
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.reductions.reduction import ReducingSink, starts_of
from chunkjac._tensors import Tensors, rows_of


class Diagonal(Destination):
    """Take the diagonal of a Jacobian."""

    name = "a diagonal"

    def held_bytes(self, mode: Mode, _left_bytes: int) -> int:
        """Return what the diagonal takes; see :class:`Destination`."""
        return sum(leaf.n_bytes for leaf in mode.problem.leaves)

    def sink(self, mode: Mode, _allowance: Allowance) -> ReducingSink:
        """Return what takes the blocks; see :class:`Destination`.

        Raises:
            FunctionError: The Jacobian is not square.
        """
        return DiagonalSink(mode)


class DiagonalSink(ReducingSink):
    """Take from each block the elements whose row and column have the same number.

    Args:
        mode: What makes the blocks.
    """

    def __init__(self, mode: Mode) -> None:
        m, n = (sum(leaf.numel for leaf in leaves) for leaves in (mode.outputs.leaves, mode.problem.leaves))
        if m != n:
            raise FunctionError(f"a diagonal needs as many outputs as inputs, found {m} outputs and {n} inputs.")
        self._mode = mode
        self._starts = starts_of(mode.directions.leaves)
        self._across = ElementDirections(block_leaves(mode))
        self._found = [leaf.zeros().view(-1) for leaf in mode.problem.leaves]

    def write(self, chunk: slice, block: Tensors) -> None:
        """Take what a block has of the diagonal."""
        for own in self._mode.directions.parts(chunk):
            first = self._starts[own.leaf] + own.elements.start
            for other in self._across.parts(slice(first, first + own.rows.stop - own.rows.start)):
                values = rows_of(block[other.leaf])[own.rows][other.rows, other.elements].diagonal()
                if self._mode.by_rows:
                    self._found[other.leaf][other.elements] = values
                else:
                    self._found[own.leaf][own.elements][other.rows] = values

    def result(self) -> Any:
        """Return the diagonal, like the inputs."""
        leaves = self._mode.problem.leaves
        return tree_unflatten([x.view(leaf.shape) for x, leaf in zip(self._found, leaves)], self._mode.problem.spec)
