"""The result as tensors, allocated once and written in place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import product
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._chunker import segments
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._modes import Mode, block_leaves, seed_leaves
from chunkjac._problem import Leaf, check_computed
from chunkjac._sinks.sink import Whole, put
from chunkjac._tensors import Tensors, is_whole


class TensorSink(Whole):
    """Write blocks into one tensor for each pair of an output and an input.

    A tensor that the sink allocates has the directions outermost, so each block is written
    into memory that hangs together; for modes that make columns the result is then a
    transposed view (8 against 225 microseconds a column, measured).

    Args:
        mode: What makes the blocks.
        out: Tensors to write into, in the result's tree; ``None`` allocates them.
        device: Where they are allocated; ``None`` for where blocks are made.
        keeps: Whether a block that is the whole result may be kept as it is, if the mode gives it away: then
            nothing is allocated, or copied.

    Raises:
        ArgumentError: ``out`` has a wrong tree, shape, dtype or device, requires grad, or its
            elements share memory with one another or with an input.
    """

    def __init__(self, mode: Mode, out: Any = None, device: torch.device | None = None, *, keeps: bool = False) -> None:
        self._mode = mode
        self._seeds, self._blocks = seed_leaves(mode), block_leaves(mode)
        self._there = device
        self._lends = device in (None, mode.problem.device)
        self._keeps = keeps and out is None and len(self._seeds) == 1
        self._targets: list[torch.Tensor] = []
        self._rows: list[torch.Tensor | None] = []
        if out is not None:
            self._take(check_out(mode, out))
        elif not self._keeps:
            self._reserve()

    def places(self, chunk: slice) -> Tensors | None:
        """Return where a block's tensors will be, if that is in one piece of memory each."""
        if not (self._lends and self._mode.writes_in_place):
            return None
        self._reserve()
        parts = list(segments(chunk, self._seeds))
        first = parts[0].leaf * len(self._blocks) if len(parts) == 1 else 0
        targets = self._rows[first : first + len(self._blocks)] if len(parts) == 1 else []
        if not targets or any(target is None or not target.is_contiguous() for target in targets):
            return None
        return tuple(target[parts[0].elements] for target in targets if target is not None)

    def write(self, chunk: slice, block: Tensors) -> None:
        """Write a block into its place, unless it is there."""
        check_computed(block, self._mode.problem.inputs)
        if self._may_keep(chunk) and self._mode.gives_away and all(map(self._is_result, block, self._blocks)):
            seed = self._seeds[0]
            self._take([rows.view(*seed.shape, *leaf.shape) for rows, leaf in zip(block, self._blocks)])
            return
        self._reserve()
        for part in segments(chunk, self._seeds):
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
        return tuple(
            _sum(_product(self._view(i, j), u, u.dim()) for j, u in enumerate(tangents)) for i in range(n_outputs)
        )

    def rows_along(self, weights: Tensors) -> Tensors:
        """Return ``w J``, like the inputs."""
        n_inputs = len(self._inputs)
        return tuple(
            _sum(_product(swapped(self._view(i, j), w.dim()), w, w.dim()) for i, w in enumerate(weights))
            for j in range(n_inputs)
        )

    def _may_keep(self, chunk: slice) -> bool:
        """Tell whether a chunk makes the whole result, and nothing was allocated for that yet."""
        return self._keeps and not self._targets and chunk == slice(0, self._seeds[0].numel)

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


def check_out(mode: Mode, out: Any) -> list[torch.Tensor]:
    """Check the user's tensors; return them with the directions outermost."""
    outputs, inputs = mode.outputs.leaves, mode.problem.leaves
    found = _in_tree(mode, out)
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
        raise ArgumentError(f"out must have the structure of the result, {expected}, found {spec}.")
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
    if _overlaps_itself(out):
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


def _overlaps_itself(tensor: torch.Tensor) -> bool:
    """Tell whether elements may share memory: a stride that is shorter than what lies below it."""
    below = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1:
            if stride < below:
                return True
            below = stride * size
    return False


def _product(jacobian: torch.Tensor, vector: torch.Tensor, n_dims: int) -> torch.Tensor:
    """Multiply over the last dimensions."""
    return torch.tensordot(jacobian, vector.to(jacobian.device, jacobian.dtype), n_dims)


def _sum(products: Iterable[torch.Tensor]) -> torch.Tensor:
    """Add tensors, of several devices on that of the first."""
    return reduce(lambda total, more: total + more.to(total.device), products)


def swapped(tensor: torch.Tensor, n_first: int) -> torch.Tensor:
    """Return a view with the first ``n_first`` dimensions moved behind the others."""
    dims = tuple(range(tensor.dim()))
    return tensor.permute(dims[n_first:] + dims[:n_first])


def _as_rows(target: torch.Tensor, seed: Leaf, block: Leaf) -> torch.Tensor | None:
    """Return a target as ``(seed.numel, *block.shape)``, if its strides allow that."""
    try:
        return target.view(seed.numel, *block.shape)
    except RuntimeError:
        return None
