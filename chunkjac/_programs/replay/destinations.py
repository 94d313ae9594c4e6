"""Operations that can write their result where they are told to."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from chunkjac._programs.graph.functional import copied, signature_of
from chunkjac._programs.graph.graph import Node
from chunkjac._programs.passes.gathers import Seeded

aten = torch.ops.aten

Into = Callable[..., Any]

# torch's own functions for them take half the time that the operator's overload takes (1.1 against 2.6 us).
_QUICK: dict[Any, Into] = {
    getattr(aten, name).out: getattr(torch, name)
    for name in ("mul", "add", "sub", "mm", "bmm", "addmm", "addcmul", "cat")
}
_QUICK[aten.sum.IntList_out] = torch.sum


def destination_call(node: Node) -> Into | None:
    """Return what runs an operation with ``out=`` a tensor to write into; ``None`` if it allocates by itself."""
    if node.func is None or node.layout is None or node.memory is not None or node.writes is not None:
        return None
    if any(stride == 0 and size > 1 for size, stride in zip(node.layout.shape, node.layout.strides)):
        return None
    if isinstance(node.func, Seeded):
        return node.func
    return _HANDMADE.get(node.func) or _variant(node.func)


def works_in_place(node: Node) -> bool:
    """Tell whether an operation may write over an operand of the same layout."""
    return torch.Tag.pointwise in getattr(node.func, "tags", ())


@cache
def _variant(func: Any) -> Into | None:
    """Find the overload that differs only by taking a destination, if it is a kernel and no copy."""
    packet = getattr(func, "overloadpacket", None)
    if packet is None or len(func._schema.returns) != 1:
        return None
    wanted = signature_of(func)
    for name in packet.overloads():
        other = getattr(packet, name)
        *_, last = other._schema.arguments or [None]
        if last is None or not last.is_out or torch.Tag.generated in other.tags:
            continue
        if signature_of(other)[:-1] == wanted:
            return _QUICK.get(other, other) if last.name == "out" else _named(other, last.name)
    return None


def _named(func: Any, name: str) -> Into:
    """Return an operation whose destination has another name."""

    def call(*args: Any, out: torch.Tensor, **kwargs: Any) -> None:
        func(*args, **kwargs, **{name: out})

    return call


def _clone(source: torch.Tensor, *, out: torch.Tensor, **_: Any) -> None:
    """Copy; a destination has its dtype and its order in memory already."""
    out.copy_(source)


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False, *, out: torch.Tensor) -> None:
    out.copy_(source)


def _nothing(*_: Any, out: torch.Tensor, **__: Any) -> None:
    """Leave a place as it is."""


def _zeros(*_: Any, out: torch.Tensor, **__: Any) -> None:
    out.zero_()


def _pad(source: torch.Tensor, pads: list[int], value: float = 0, *, out: torch.Tensor) -> None:
    """Write the frame's value, and what is in it."""
    out.fill_(value)
    inner = out
    for i in range(len(pads) // 2):
        dim, (before, behind) = out.dim() - 1 - i, pads[2 * i : 2 * i + 2]
        cut = max(0, -before)
        source = source.narrow(dim, cut, source.shape[dim] - cut - max(0, -behind))
        inner = inner.narrow(dim, max(0, before), source.shape[dim])
    inner.copy_(source)


_HANDMADE: dict[Any, Into] = {
    aten.clone.default: _clone,
    aten._to_copy.default: _clone,
    copied: _copy,
    aten.new_zeros.default: _zeros,
    aten.zeros.default: _zeros,
    aten.zeros_like.default: _zeros,
    aten.zero.default: _zeros,
    aten.new_empty_strided.default: _nothing,
    aten.constant_pad_nd.default: _pad,
    aten.stack.default: torch.stack,
    aten.mul.Scalar: torch.mul,
}
