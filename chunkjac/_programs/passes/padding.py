"""What is zero but for a part, carried as that part.

Theorem: a linear map that treats the places along a dimension alike takes zeros to zeros there: it may be
applied to the part alone, with the part of each constant that belongs to it. A product that
contracts the dimension needs the part only. So where a function gives the last of many steps, say,
what lies behind its last attention is pulled back for one step, not for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from chunkjac._programs.graph.graph import Node

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Padded:
    """Hold a part of a tensor that is zero elsewhere.

    Attributes:
        part: The part.
        dim: Along which dimension there are zeros before it and behind it.
        before: How many before it.
        size: The size of the whole along the dimension.
    """

    part: torch.Tensor
    dim: int
    before: int
    size: int

    def value(self) -> torch.Tensor:
        """Return the whole."""
        behind = self.size - self.before - self.part.shape[self.dim]
        return aten.constant_pad_nd(self.part, [*[0] * 2 * (self.part.dim() - 1 - self.dim), self.before, behind])

    def like(self, part: torch.Tensor, dim: int | None = None) -> Padded:
        """Return another part at the same place."""
        return Padded(part, self.dim if dim is None else dim, self.before, self.size)

    def narrowed(self, constant: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the part of a constant that belongs to this one."""
        return constant.narrow(dim, self.before, self.part.shape[self.dim])


def placed(node: Node, env: Mapping[Node, Any], value_of: Callable[[Any], Any]) -> Any:
    """Return what an operation gives for parts of its operands; ``None`` if it needs the whole.

    Args:
        node: The operation.
        env: What stands for its operands.
        value_of: Returns the tensor that something stands for.
    """
    if node.func is aten.constant_pad_nd.default:
        return _padded(node, env, value_of)
    held = [env[operand] for operand in node.operands]
    parts = [value for value in held if isinstance(value, Padded)]
    if not parts or any(operand.varies and not isinstance(env[operand], Padded) for operand in node.operands):
        return None
    rule = _RULES.get(node.func)
    if rule is None or len({(part.dim, part.before, part.size, part.part.shape[part.dim]) for part in parts}) > 1:
        return None
    return rule(node, env)


def _padded(node: Node, env: Mapping[Node, Any], value_of: Callable[[Any], Any]) -> Padded | None:
    """Take zeros before and behind for what they are."""
    source, pads, *fill = node.args
    wide = [i for i in range(len(pads) // 2) if pads[2 * i] or pads[2 * i + 1]]
    if not source.varies or (fill and fill[0]):
        return None
    held = env[source]
    if isinstance(held, Padded):
        own = held.part.dim() - 1 - held.dim
        return None if own in wide else held.like(_run(node, held.part, pads))
    if len(wide) != 1 or min(pads) < 0:
        return None
    whole = node.tensor_layout.shape
    dim = len(whole) - 1 - wide[0]
    return Padded(value_of(env[source]), dim, pads[2 * wide[0]], whole[dim])


def _pointwise(node: Node, env: Mapping[Node, Any]) -> Padded | None:
    """Apply a pointwise operation to the part, with the constants' parts."""
    n_dims = len(node.tensor_layout.shape)
    like = next(env[operand] for operand in node.operands if isinstance(env[operand], Padded))
    if like.part.dim() != n_dims:
        return None
    args = []
    for arg in node.args:
        value = env[arg] if isinstance(arg, Node) else arg
        if isinstance(value, Padded):
            value = value.part
        elif isinstance(value, torch.Tensor) and isinstance(arg, Node):
            dim = like.dim - (n_dims - value.dim())
            if dim >= 0 and arg.tensor_layout.shape[dim] > 1:
                value = like.narrowed(value, dim)
        args.append(value)
    return like.like(_run(node, *args))


def _reduction(node: Node, env: Mapping[Node, Any]) -> Padded | None:
    """Add along other dimensions, which stay with size one."""
    like, dims, *rest = env[node.args[0]], *node.args[1:]
    n_dims = like.part.dim()
    if not dims or rest != [True] or node.kwargs or like.dim in [dim % n_dims for dim in dims]:
        return None
    return like.like(_run(node, like.part, dims, True))


def _expansion(node: Node, env: Mapping[Node, Any]) -> Padded | None:
    """Repeat along other dimensions."""
    like, shape = env[node.args[0]], list(node.tensor_layout.shape)
    if len(shape) != like.part.dim() or shape[like.dim] != like.size:
        return None
    shape[like.dim] = like.part.shape[like.dim]
    return like.like(aten.expand(like.part, shape))


def _slice(node: Node, env: Mapping[Node, Any]) -> Padded | None:
    """Take some places along another dimension."""
    like, dim = env[node.args[0]], (node.args[1] if len(node.args) > 1 else 0)
    return None if dim % like.part.dim() == like.dim else like.like(_run(node, like.part, *node.args[1:]))


def _joined(node: Node, env: Mapping[Node, Any]) -> Padded | None:
    """Join parts along another dimension."""
    tensors, dim = node.args[0], (node.args[1] if len(node.args) > 1 else 0)
    if not all(isinstance(env[tensor], Padded) for tensor in tensors):
        return None
    like = env[tensors[0]]
    if dim % like.part.dim() == like.dim:
        return None
    return like.like(_run(node, [env[tensor].part for tensor in tensors], dim))


def _view(node: Node, env: Mapping[Node, Any]) -> Padded | None:
    """Take a view in which the dimension stays: as many elements before it, and as many in it."""
    like, shape = env[node.args[0]], list(node.tensor_layout.shape)
    ahead = node.args[0].tensor_layout.shape[: like.dim].numel()
    for dim, size in enumerate(shape):
        if size == like.size and torch.Size(shape[:dim]).numel() == ahead:
            part_shape = [*shape[:dim], like.part.shape[like.dim], *shape[dim + 1 :]]
            return like.like(aten.reshape(like.part, part_shape), dim)
    return None


def _transpose(node: Node, env: Mapping[Node, Any]) -> Padded:
    """Swap two dimensions."""
    like = env[node.args[0]]
    n_dims = like.part.dim()
    first, second = (dim % n_dims for dim in (node.args[1:] or (0, 1)))
    return like.like(like.part.transpose(first, second), {first: second, second: first}.get(like.dim, like.dim))


def _product(node: Node, env: Mapping[Node, Any]) -> Any:
    """Multiply the part's rows or columns, or contract over the part only."""
    left, right = (env[arg] for arg in node.args)
    if isinstance(left, Padded) and isinstance(right, Padded):
        return None
    is_left = isinstance(left, Padded)
    like: Padded = left if is_left else right
    n_dims = like.part.dim()
    rows, columns = n_dims - 2, n_dims - 1
    contracted, other_side = (columns, rows) if is_left else (rows, columns)
    other = right if is_left else left
    if like.dim == contracted:
        other = like.narrowed(other, other_side)
    elif like.dim not in (rows, columns):
        other = like.narrowed(other, like.dim)
    made = _run(node, like.part, other) if is_left else _run(node, other, like.part)
    return made if like.dim == contracted else like.like(made)


def _run(node: Node, *args: Any) -> Any:
    """Run a node's operation on other arguments."""
    assert node.func is not None
    return node.func(*args, **node.kwargs)


_RULES: dict[Any, Callable[[Node, Mapping[Node, Any]], Any]] = {
    aten.mul.Tensor: _pointwise,
    aten.mul.Scalar: _pointwise,
    aten.div.Tensor: _pointwise,
    aten.div.Scalar: _pointwise,
    aten.neg.default: _pointwise,
    aten.add.Tensor: _pointwise,
    aten.sub.Tensor: _pointwise,
    aten.sum.dim_IntList: _reduction,
    aten.mean.dim: _reduction,
    aten.expand.default: _expansion,
    aten.slice.Tensor: _slice,
    aten.cat.default: _joined,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.unsqueeze.default: _view,
    aten.clone.default: lambda node, env: env[node.args[0]],
    aten.alias.default: lambda node, env: env[node.args[0]],
    aten.transpose.int: _transpose,
    aten.t.default: _transpose,
    aten.mm.default: _product,
    aten.bmm.default: _product,
}
