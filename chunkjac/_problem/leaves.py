"""The values that travel between the parts."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import TreeSpec

MODES = ("auto", "reverse", "forward", "finite-difference")


@dataclass(frozen=True, slots=True)
class Leaf:
    """Hold what is known of one tensor among the inputs or outputs."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Leaf:
        """Describe a tensor."""
        return cls(tensor.shape, tensor.dtype, tensor.device)

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return self.shape.numel()

    @property
    def n_bytes(self) -> int:
        """Return the bytes of the elements."""
        return self.numel * self.dtype.itemsize


# Where a function has many operations, and all rows of one have so few elements, a call takes longer than what it
# computes. Those of forward mode take 4 times as long as those of reverse mode then (200 steps of a Runge-Kutta
# method on 8 numbers: 0.27 and 0.07 s).
_TINY_NUMEL = 2**14


@dataclass(frozen=True, slots=True)
class Outputs:
    """Hold what one evaluation told.

    Attributes:
        leaves: What is known of each output.
        spec: Their tree.
        aux: The auxiliary result.
        nodes: The names of the nodes of autograd's graph behind them; ``None`` where there was no graph.
        n_nodes: How many there are.
        node_numel: How many elements each makes, on average of some; ``None`` where they are few.
    """

    leaves: tuple[Leaf, ...]
    spec: TreeSpec
    aux: Any = None
    nodes: frozenset[str] | None = None
    n_nodes: int = 0
    node_numel: float | None = None

    def are_calls_all(self, n_directions: int) -> bool:
        """Tell whether a call of each operation takes longer than what it computes for so many directions."""
        return self.node_numel is not None and n_directions * self.node_numel <= _TINY_NUMEL


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Hold a finished piece of a Jacobian, as a callback in ``out`` is given it.

    The flattened directions are numbered through the outputs' (or inputs') tree in order, each tensor
    in C order; ``slice`` says which of them are here.

    Attributes:
        axis: ``"output"`` for rows of the Jacobian, one for each output element (reverse mode);
            ``"input"`` for columns, one for each input element.
        slice: Which directions, k of them.
        values: Rows as a tree like the inputs, each tensor ``(k, *input.shape)``; columns as a tree
            like the outputs, each ``(k, *output.shape)``. They hold until the next block is made: clone
            what is to be kept.
    """

    axis: str
    slice: builtins.slice
    values: Any


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
