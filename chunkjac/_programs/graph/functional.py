"""New tensors where an operation writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def functional_of(func: Any) -> Any:
    """Return what gives a new tensor where an operation writes to its first argument; ``None`` if nothing does."""
    if func is torch.ops.aten.copy_.default:
        return copied
    name = func.overloadpacket.__name__
    packet = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") else None
    wanted = signature_of(func)
    for overload in packet.overloads() if packet is not None else ():
        other = getattr(packet, overload)
        if signature_of(other) == wanted:
            return other
    return None


def signature_of(func: Any) -> list[tuple[str, str]]:
    """Return the names and types of an operation's arguments."""
    return [(argument.name, str(argument.type)) for argument in func._schema.arguments]


def copied(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    """Return what a tensor is after another was copied to it."""
    return source.to(target.dtype).expand(target.shape).clone()


def strided_from(tensor: torch.Tensor, shape: Sequence[int], strides: Sequence[int], offset: int) -> torch.Tensor:
    """Return ``as_strided`` with an offset that counts from where the tensor begins, wherever its memory is."""
    return tensor.as_strided(shape, strides, tensor.storage_offset() + offset)


def reads_values(func: Any, tensors: list[torch.Tensor]) -> bool:
    """Tell whether an operation's result depends on values otherwise than by its own values."""
    if func.overloadpacket in _INDEXING:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors[1:])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


_INDEXING = {torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_}
