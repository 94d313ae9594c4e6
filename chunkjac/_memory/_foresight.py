"""How many bytes an operation will allocate, found without running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, isfinite, prod
from typing import Any

import torch
from torch.utils._pytree import tree_map

# Gives a tensor of zeros that has a size and no memory (forward AD of functions that ignore x).
NO_MEMORY = torch.ops.aten._efficientzerotensor.default

# Unfolding and padding make a result this many times larger than their inputs at most.
_GROWTH = 16

# complex128
_LARGEST_ITEM_BYTES = 16


@dataclass(frozen=True, slots=True)
class Given:
    """Hold what an operation was given: its tensors, and how far its numbers can multiply sizes."""

    tensors: list[torch.Tensor]
    times: int

    @classmethod
    def of(cls, args: Iterable[Any], kwargs: Mapping[str, Any]) -> Given:
        """Look through arguments; lists among them are looked into, and tuples."""
        tensors: list[torch.Tensor] = []
        times = 1
        stack = [*args, *kwargs.values()]
        for value in stack:
            if isinstance(value, torch.Tensor):
                tensors.append(value)
            elif isinstance(value, (list, tuple)):
                stack.extend(value)
            elif isinstance(value, (int, float)) and isfinite(value) and abs(value) > 1:
                times *= ceil(abs(value))
        return cls(tensors, times)

    @property
    def most_bytes(self) -> int:
        """Return a bound for most results.

        Products and broadcasts make all pairs of elements of two inputs; sizes, repeats and
        counts stand as numbers among the arguments and can each multiply.
        """
        if not self.tensors:
            return _LARGEST_ITEM_BYTES * self.times
        numels = sorted(tensor.numel() for tensor in self.tensors)
        itemsize = max(tensor.element_size() for tensor in self.tensors)
        return itemsize * self.times * max(1, _GROWTH * sum(numels), prod(numels[-2:]))


def bytes_to_be_made(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: Given, device: torch.device, room_bytes: int
) -> int:
    """Return the bytes that ``func(*args, **kwargs)`` will allocate for its results on a device.

    The operation runs on meta tensors, which have shapes and no memory, unless its arguments
    show that it cannot fill ``room_bytes`` (0 then). Operations without a meta kernel, and
    those whose results depend on values, give 0 as well: they are seen afterwards only.
    """
    if not _allocates(func) or given.most_bytes <= room_bytes:
        return 0
    if any(tensor.is_meta for tensor in given.tensors) or kwargs.get("device", device) != device:
        return 0
    try:
        meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
        made = func(*meta_args, **meta_kwargs)
    except Exception:  # no meta kernel, or results whose shape depends on values
        return 0
    storages = [tensor.untyped_storage() for tensor in Given.of((made,), {}).tensors]
    held = {tensor.untyped_storage()._cdata for tensor in Given.of(meta_args, meta_kwargs).tensors}
    return sum({storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in held}.values())


@cache
def _allocates(func: Any) -> bool:
    """Tell whether an operation gives new memory: not in place, not a view."""
    return func is not NO_MEMORY and not any(result.alias_info for result in func._schema.returns)


def _to_meta(value: Any) -> Any:
    """Return a tensor's shape without its memory; a device becomes meta."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
