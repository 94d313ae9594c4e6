"""How many bytes an operation will allocate, found without running it."""

from __future__ import annotations

from math import isfinite, prod
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

# Gives a tensor of zeros that has a size and no memory (forward AD of functions that ignore x).
NO_MEMORY = torch.ops.aten._efficientzerotensor.default

# Unfolding and padding make a result this many times larger than their inputs at most.
_GROWTH = 16

# complex128
_LARGEST_ITEM_BYTES = 16


def bytes_to_be_made(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device, room_bytes: int
) -> int:
    """Return the bytes that ``func(*args, **kwargs)`` will allocate for its results on a device.

    The operation runs on meta tensors, which have shapes and no memory, unless its arguments
    show that it cannot fill ``room_bytes`` (0 then). Operations without a meta kernel, and
    those whose results depend on values, give 0 as well: they are seen afterwards only.
    """
    if func is NO_MEMORY or any(result.alias_info is not None for result in func._schema.returns):
        return 0
    given = tree_flatten((args, kwargs))[0]
    tensors = [value for value in given if isinstance(value, torch.Tensor)]
    if any(tensor.is_meta for tensor in tensors) or kwargs.get("device", device) != device:
        return 0
    if _at_most(tensors, given) <= room_bytes:
        return 0
    try:
        meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
        made = func(*meta_args, **meta_kwargs)
    except Exception:  # no meta kernel, or results whose shape depends on values
        return 0
    storages = [value.untyped_storage() for value in tree_flatten(made)[0] if isinstance(value, torch.Tensor)]
    held = {value.untyped_storage()._cdata for value in tree_flatten(meta_args)[0] if isinstance(value, torch.Tensor)}
    return sum({storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in held}.values())


def _at_most(tensors: list[torch.Tensor], given: list[Any]) -> int:
    """Return a bound for most results, found from the arguments alone.

    Products and broadcasts make all pairs of elements of two inputs; sizes, repeats and counts
    stand as numbers among the arguments and can each multiply.
    """
    numels = sorted(tensor.numel() for tensor in tensors)
    itemsize = max((tensor.element_size() for tensor in tensors), default=_LARGEST_ITEM_BYTES)
    times = prod(max(1, abs(value)) for value in given if isinstance(value, (int, float)) and isfinite(value))
    return int(itemsize * times * max(1, _GROWTH * sum(numels), prod(numels[-2:])))


def _to_meta(value: Any) -> Any:
    """Return a tensor's shape without its memory; a device becomes meta."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
