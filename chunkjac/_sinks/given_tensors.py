"""The user's own tensors, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._arguments import reading, shown
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._modes import Mode, block_leaves
from chunkjac._problem import Leaf
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.sink import swapped
from chunkjac._sinks.tensor import TensorSink
from chunkjac._tensors import overlaps_itself


@dataclass(frozen=True, slots=True, eq=False)
class GivenTensors(Destination):
    """Write into tensors of the user's, which do not count.

    Attributes:
        tensors: Those, in the result's tree.
    """

    tensors: Any
    name = "out"

    def check(self, mode: Mode) -> None:
        """Refuse what cannot take the result.

        Raises:
            ArgumentTypeError, ArgumentError: The tensors have a wrong tree, shape, dtype or device, require grad, or
                share memory with one another or with an input.
        """
        _checked(mode, self.tensors)

    def sink(self, mode: Mode, _allowance: Allowance) -> TensorSink:
        """Return what takes the blocks; errors are those of :meth:`check`."""
        return TensorSink(mode, _checked(mode, self.tensors))


def _checked(mode: Mode, out: Any) -> list[torch.Tensor]:
    """Check the user's tensors; return them with the directions outermost."""
    with reading("out", out):
        return _with_directions_outermost(mode, _in_tree(mode, out))


def _with_directions_outermost(mode: Mode, found: list[torch.Tensor]) -> list[torch.Tensor]:
    """Check the tensors themselves."""
    outputs, inputs = mode.outputs.leaves, mode.problem.leaves
    n_inputs = len(inputs)
    blocks = block_leaves(mode)
    for i, j in product(range(len(outputs)), range(n_inputs)):
        expected = blocks[j if mode.by_rows else i]
        _check_out(found[i * n_inputs + j], (*outputs[i].shape, *inputs[j].shape), expected)
    _check_apart(found, [leaf for leaf in tree_flatten(mode.problem.args)[0] if isinstance(leaf, torch.Tensor)])
    if mode.by_rows:
        return found
    return [
        swapped(found[i * n_inputs + j], len(outputs[i].shape))
        for j, i in product(range(n_inputs), range(len(outputs)))
    ]


def _in_tree(mode: Mode, out: Any) -> list[torch.Tensor]:
    """Return the user's tensors, flat, after checking their tree."""
    inner = tree_unflatten([0] * len(mode.problem.leaves), mode.problem.spec)
    expected = tree_flatten(tree_unflatten([inner] * len(mode.outputs.leaves), mode.outputs.spec))[1]
    found, spec = tree_flatten(out)
    if spec != expected:
        raise ArgumentError(f"out must have the structure of the result, {expected}, found {shown(out)}.")
    for tensor in found:
        if not isinstance(tensor, torch.Tensor):
            raise ArgumentTypeError(f"out must be a tensor for each output and input, found {type(tensor).__name__}.")
    return found


def _check_out(out: torch.Tensor, shape: tuple[int, ...], like: Leaf) -> None:
    """Refuse a tensor that cannot take the result as it is."""
    wanted, found = (shape, like.dtype, like.device), (tuple(out.shape), out.dtype, out.device)
    if found != wanted:
        raise ArgumentError(
            f"out must be {tuple(shape)} {like.dtype} on {like.device}, "
            f"found {found[0]} {found[1]} on {found[2]}; torch.empty gives such a tensor."
        )
    if out.layout != torch.strided:
        raise ArgumentError(f"out must be a dense tensor, found {out.layout}.")
    if out.is_inference():
        raise ArgumentError("out must not be made in inference mode; make it outside.")
    if out.requires_grad:
        raise ArgumentError("out must not require grad; pass out.detach().")
    if overlaps_itself(out):
        raise ArgumentError("out must not be expanded: several of its elements share memory; pass out.contiguous().")


def _check_apart(outs: Sequence[torch.Tensor], arguments: Sequence[torch.Tensor]) -> None:
    """Refuse tensors that would be written over, or over arguments of the function."""
    for i, out in enumerate(outs):
        if any(_share_memory(out, other) for other in outs[:i]):
            raise ArgumentError("out must not hold tensors that share memory with one another.")
        if any(_share_memory(out, argument) for argument in arguments):
            raise ArgumentError("out must not share memory with an input or another argument; pass one of its own.")


def _share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors lie over one another, from the first byte of each to its last."""
    if a.device != b.device or b.layout != torch.strided or not (a.numel() and b.numel()):
        return False
    (a_first, a_last), (b_first, b_last) = _span(a), _span(b)
    return a_first < b_last and b_first < a_last


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """Return the address of the first byte, and of the one after the last."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()
