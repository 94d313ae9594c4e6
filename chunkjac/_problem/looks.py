"""What an argument looks like, for comparisons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_flatten


def differences_between(was: Any, now: Any, moved: Mapping[torch.device, torch.device]) -> Iterator[tuple[str, str]]:
    """Yield what differs between an argument and another that stands for it, and may have been moved."""
    (leaves, spec), (other_leaves, other_spec) = tree_flatten(was), tree_flatten(now)
    if spec != other_spec:
        yield f"structure {spec}", f"structure {other_spec}"
        return
    for leaf, other in zip(leaves, other_leaves):
        planned, found = looks_like(leaf, moved), looks_like(other)
        if planned != found:
            yield planned, found


def looks_like(value: Any, moved: Mapping[torch.device, torch.device] | None = None) -> str:
    """Return what a plan depends on: of a tensor its shape, dtype and device, of others their type."""
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {value.dtype} on {(moved or {}).get(value.device, value.device)}"
    return type(value).__name__
