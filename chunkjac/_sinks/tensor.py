"""The result as tensors, allocated once and written in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch.utils._pytree import tree_unflatten

from chunkjac._modes import Mode, block_leaves, result_bytes
from chunkjac._problem import Leaf
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.sink import Whole, put, swapped
from chunkjac._tensors import Tensors, is_whole


@dataclass(frozen=True, slots=True)
class NewTensor(Destination):
    """Allocate the result where the function runs."""

    name = "a new tensor"
    allocates_result = True
    why_no_graph = ""

    def held_bytes(self, mode: Mode, _left_bytes: int) -> int:
        """Return what the result takes."""
        return result_bytes(mode)

    def sink(self, mode: Mode, allowance: Allowance) -> TensorSink:
        """Return what takes the blocks."""
        return TensorSink(mode, keeps=allowance.keeps)


class TensorSink(Whole):
    """Write blocks into one tensor for each pair of an output and an input.

    A tensor that the sink allocates has the directions outermost, so each block is written
    into memory that hangs together; for modes that make columns the result is then a
    transposed view (8 against 225 microseconds a column, measured).

    Args:
        mode: What makes the blocks.
        targets: Tensors to write into, the directions outermost; ``None`` allocates them.
        device: Where they are allocated; ``None`` for where blocks are made.
        keeps: Whether a block that is the whole result may be kept as it is, if the mode gives it away: then
            nothing is allocated, or copied.
    """

    def __init__(
        self,
        mode: Mode,
        targets: list[torch.Tensor] | None = None,
        device: torch.device | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        self._mode = mode
        self._seeds, self._blocks = mode.directions.leaves, block_leaves(mode)
        self._there = device
        self._lends = device in (None, mode.problem.device)
        self._keeps = keeps and targets is None and len(self._seeds) == 1 and mode.directions.are_elements
        self._targets: list[torch.Tensor] = []
        self._rows: list[torch.Tensor | None] = []
        if targets is not None:
            self._take(targets)
        elif not self._keeps:
            self._reserve()

    def places(self, chunk: slice) -> Tensors | None:
        """Return where a block's tensors will be, if that is in one piece of memory each."""
        if not (self._lends and self._mode.writes_in_place):
            return None
        self._reserve()
        parts = list(self._mode.directions.parts(chunk))
        if len(parts) != 1 or parts[0].elements.step:
            return None
        first = parts[0].leaf * len(self._blocks)
        targets = self._rows[first : first + len(self._blocks)]
        if any(target is None or not target.is_contiguous() for target in targets):
            return None
        return tuple(target[parts[0].elements] for target in targets if target is not None)

    def write(self, chunk: slice, block: Tensors) -> None:
        """Write a block into its place, unless it is there."""
        if self._may_keep(chunk) and self._mode.gives_away and all(map(self._is_result, block, self._blocks)):
            seed = self._seeds[0]
            self._take([rows.view(*seed.shape, *leaf.shape) for rows, leaf in zip(block, self._blocks)])
            return
        self._reserve()
        for part in self._mode.directions.parts(chunk):
            for number, values in enumerate(block):
                at = part.leaf * len(self._blocks) + number
                rows, target = values[part.rows], self._rows[at]
                if target is not None:
                    put(target[part.elements], rows)
                else:
                    self._scatter(at, part.elements, rows)

    def result(self) -> Any:
        """Return the Jacobian in torch.func's tree: outputs outside, inputs inside."""
        self._reserve()
        rows = [[self._view(i, j) for j in range(len(self._inputs))] for i in range(len(self._mode.outputs.leaves))]
        trees = [tree_unflatten(row, self._mode.problem.spec) for row in rows]
        return tree_unflatten(trees, self._mode.outputs.spec)

    def columns_along(self, tangents: Tensors) -> Tensors:
        """Return ``J u``, like the outputs."""
        n_outputs = len(self._mode.outputs.leaves)
        return tuple(_sum(_product(self._view(i, j), u) for j, u in enumerate(tangents)) for i in range(n_outputs))

    @property
    def is_finite(self) -> bool:
        """Tell whether all elements are finite: one sum tells of all, but for what is too large for that."""
        sums = [target.sum().item() for target in self._targets]  # of these, Python's arithmetic is the fastest
        return all(number - number == 0 for number in sums)

    def count_nan(self) -> int:
        """Return how many elements are no numbers."""
        return sum(
            int(row.isnan().sum()) for target in self._targets for row in (target if target.dim() else (target,))
        )

    def _may_keep(self, chunk: slice) -> bool:
        """Tell whether a chunk makes the whole result, and nothing was allocated for that yet."""
        return self._keeps and not self._targets and chunk == slice(0, self._mode.directions.n)

    def _reserve(self) -> None:
        """Allocate what is written into, unless it is there."""
        if not self._targets:
            self._take(_allocated(self._seeds, self._blocks, self._there))

    def _take(self, targets: list[torch.Tensor]) -> None:
        """Hold the result's tensors, also as matrices of directions."""
        self._targets = targets
        self._rows = [_as_rows(target, *pair) for target, pair in zip(targets, self._pairs())]

    @staticmethod
    def _is_result(rows: torch.Tensor, leaf: Leaf) -> bool:
        """Tell whether a block's tensor is as one that would be allocated."""
        return rows.dtype == leaf.dtype and is_whole(rows)

    @property
    def _inputs(self) -> Sequence[Leaf]:
        return self._mode.problem.leaves

    def _pairs(self) -> list[tuple[Leaf, Leaf]]:
        """Return the pairs of seed and block leaves, in the order of the targets."""
        return list(product(self._seeds, self._blocks))

    def _view(self, i: int, j: int) -> torch.Tensor:
        """Return the Jacobian of output i by input j, ``(*output.shape, *input.shape)``."""
        if self._mode.by_rows:
            return self._targets[i * len(self._blocks) + j]
        n_input_dims = len(self._inputs[j].shape)
        return swapped(self._targets[j * len(self._blocks) + i], n_input_dims)

    def _scatter(self, at: int, elements: slice, rows: torch.Tensor) -> None:
        """Write rows one by one, where the target's strides allow no matrix."""
        target, shape = self._targets[at], self._pairs()[at][0].shape
        for row, element in zip(rows, range(elements.start, elements.stop)):
            index = []
            for size in reversed(shape):
                element, place = divmod(element, size)
                index.append(place)
            target[tuple(reversed(index))] = row


def _allocated(seeds: Sequence[Leaf], blocks: Sequence[Leaf], device: torch.device | None) -> list[torch.Tensor]:
    """Allocate the targets, ``(*seed.shape, *block.shape)``."""
    return [
        torch.empty((*seed.shape, *block.shape), dtype=block.dtype, device=device or block.device)
        for seed, block in product(seeds, blocks)
    ]


def _product(jacobian: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """Multiply over the vector's dimensions, which are the last ones."""
    return torch.tensordot(jacobian, vector.to(jacobian.device, jacobian.dtype), vector.dim())


def _sum(products: Iterable[torch.Tensor]) -> torch.Tensor:
    """Add tensors, of several devices on that of the first."""
    return reduce(lambda total, more: total + more.to(total.device), products)


def _as_rows(target: torch.Tensor, seed: Leaf, block: Leaf) -> torch.Tensor | None:
    """Return a target as ``(seed.numel, *block.shape)``, if its strides allow that."""
    try:
        return target.view(seed.numel, *block.shape)
    except RuntimeError:
        return None
