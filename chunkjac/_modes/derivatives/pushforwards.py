"""The rungs of forward mode: ways to send tangents through the function."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch.func import jvp
from torch.utils._pytree import tree_flatten

from chunkjac._memory import are_limited
from chunkjac._modes.derivatives.graph_nodes import are_sure
from chunkjac._modes.derivatives.nesting import NestingWatcher
from chunkjac._modes.vmap import at_once
from chunkjac._problem import Outputs, Problem, ZeroProducts, behind, plain_kernels
from chunkjac._tensors import Tensors

# torch has one forward-AD level for the whole process: in two threads at once it gives wrong
# numbers, or crashes (torch.func.jacfwd does, torch 2.13).
_FORWARD_AD_LOCK = threading.RLock()


class VmapJvp:
    """Send the tangents of a chunk through the function at once, by ``vmap`` of torch.func's jvp.

    Captured parameters that require grad keep no graph where grad mode is off (2201 MiB with,
    262 MiB without, measured).

    Args:
        problem: The function and its inputs.
        outputs: What the function returns.
    """

    name: ClassVar[str] = "vmap(jvp)"
    prologue: ClassVar[str] = "none"
    batched: ClassVar[bool] = True
    flows = True  # columns of zeros do not show before they are computed

    def __init__(self, problem: Problem, outputs: Outputs) -> None:
        self._problem = problem
        self.outputs = outputs
        self._skips_zeros = _has_large_weights(problem)  # until a block has shown that there are no products worth it
        self._is_nested = outputs.nests  # else a block shows it
        self._saw_nesting = False

    @property
    def is_sure(self) -> bool:
        """Tell whether all of its derivatives are known to be right in batches."""
        return are_sure(self.outputs, "forward")

    def many(self, seeds: Tensors) -> Tensors:
        """Return columns, ``(k, *output.shape)`` for each output."""
        randomness = self._problem.randomness
        return self._at_once(lambda *rows: at_once(self._push, rows, randomness=randomness), seeds)

    def one(self, seed: Tensors) -> Tensors:
        """Return a column, like the outputs."""
        return self._at_once(self._push, seed)

    def recordable(self, seed: Tensors) -> Tensors:
        """Do what ``one`` does, with kernels that have forward derivatives."""
        with plain_kernels():
            return self.one(seed)

    def close(self) -> None:
        """Keep nothing, as before."""

    def _at_once(self, push: Callable[..., Tensors], seeds: Tensors) -> Tensors:
        """Push alone in the process, and leave products with zeros out while that is worth it.

        A function that differentiates something itself needs grad mode: without it, some backward
        formulas use what the forward pass has saved, which has no tangent (``linalg.solve``, ``logdet``).
        """
        skipping = ZeroProducts(worth_bytes=0) if are_limited() else None  # what they take counts
        if skipping is None and self._skips_zeros:
            skipping = ZeroProducts()
        with _FORWARD_AD_LOCK, self._kernels(), skipping or nullcontext():
            columns = self._detached(push, seeds) if self._is_nested else push(*seeds)
            if self._is_nested is None:
                self._is_nested = self._saw_nesting
                if self._is_nested and not torch.is_grad_enabled():
                    columns = self._detached(push, seeds)
        self._skips_zeros = skipping is not None and skipping.pays
        return columns

    def _detached(self, push: Callable[..., Tensors], seeds: Tensors) -> Tensors:
        """Push with grad mode on; the graph of captured parameters goes, unless it is wanted."""
        is_wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            columns = push(*seeds)
        return columns if is_wanted else tuple(column.detach() for column in columns)

    def _push(self, *tangents: torch.Tensor) -> Tensors:
        """Push one tangent through the function."""
        columns: Tensors = jvp(self._flat, self._problem.inputs, tangents)[1]
        return columns

    def _flat(self, *inputs: torch.Tensor) -> Tensors:
        """Call the function; the first time, look whether it differentiates something itself."""
        if self._is_nested is not None:
            return self._problem.flat(*inputs)
        with NestingWatcher() as nesting:
            outputs = self._problem.flat(*inputs)
        self._saw_nesting = nesting.seen
        return outputs

    def _kernels(self) -> AbstractContextManager[Any]:
        """Return the choice of kernels."""
        return nullcontext()


def _has_large_weights(problem: Problem) -> bool:
    """Tell whether a function may multiply by a matrix whose zero is worth being left out."""
    held = (tensor for module in problem.modules for tensor in module.parameters(recurse=False))
    others = (part for part in behind(problem.func) if isinstance(part, torch.Tensor))
    arguments = (leaf for leaf in tree_flatten(problem.args)[0] if isinstance(leaf, torch.Tensor))
    return any(
        tensor.numel() * tensor.element_size() >= ZeroProducts.WORTH_BYTES for tensor in (*held, *others, *arguments)
    )


class VmapJvpPlain(VmapJvp):
    """Do the same with kernels that have forward derivatives."""

    name: ClassVar[str] = "vmap(jvp), plain kernels"

    def _kernels(self) -> AbstractContextManager[Any]:
        return plain_kernels()


class ColumnByColumn(VmapJvpPlain):
    """Push one tangent after the other: nothing is batched."""

    name: ClassVar[str] = "jvp, column by column"
    batched: ClassVar[bool] = False
