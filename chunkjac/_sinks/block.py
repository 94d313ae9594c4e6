"""A finished piece, as users are given it."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from torch.utils._pytree import tree_unflatten

from chunkjac._modes import Mode
from chunkjac._tensors import Tensors


def block_for_users(mode: Mode, chunk: slice, block: Tensors) -> Block:
    """Return a block as callables and loops are given it."""
    spec = mode.problem.spec if mode.by_rows else mode.outputs.spec
    return Block("output" if mode.by_rows else "input", chunk, tree_unflatten(list(block), spec))


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
