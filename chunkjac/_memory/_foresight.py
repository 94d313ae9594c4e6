"""How many bytes an operation will allocate, found without running it."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

# Gives a tensor of zeros that has a size and no memory (forward AD of functions that ignore x).
NO_MEMORY = torch.ops.aten._efficientzerotensor.default

# Shapes are worked out only when what goes in, times this, could fill the room.
_GROWTH = 16


def bytes_to_be_made(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], room_bytes: int) -> int:
    """Return the bytes that ``func(*args, **kwargs)`` will allocate for its results.

    The operation runs on meta tensors, which have shapes and no memory. Operations that work
    in place, that give views, or whose inputs are too small to fill ``room_bytes`` are not
    looked at (0), nor are those without a meta kernel: the tracker sees them afterwards.
    """
    if func is NO_MEMORY or any(result.alias_info is not None for result in func._schema.returns):
        return 0
    given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    if any(tensor.is_meta for tensor in given) or (given and _at_most(given) <= room_bytes):
        return 0
    try:
        meta_args, meta_kwargs = tree_map(_to_meta, (args, kwargs))
        made = func(*meta_args, **meta_kwargs)
    except Exception:  # no meta kernel, or results whose shape depends on values
        return 0
    storages = [value.untyped_storage() for value in tree_flatten(made)[0] if isinstance(value, torch.Tensor)]
    held = {value.untyped_storage()._cdata for value in tree_flatten(meta_args)[0] if isinstance(value, torch.Tensor)}
    return sum({storage._cdata: storage.nbytes() for storage in storages if storage._cdata not in held}.values())


def _at_most(given: list[torch.Tensor]) -> int:
    """Return a bound for most results: all pairs of elements of the two largest inputs.

    Products and broadcasts make no more than that; what else there is (unfolding, padding)
    grows by small factors.
    """
    numels = sorted(tensor.numel() for tensor in given)
    itemsize = max(tensor.element_size() for tensor in given)
    return itemsize * max(_GROWTH * sum(numels), prod(numels[-2:]))


def _to_meta(value: Any) -> Any:
    """Return a tensor's shape without its memory; a device becomes meta."""
    if isinstance(value, torch.Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return torch.device("meta") if isinstance(value, torch.device) else value
