"""Tensors among values, what they share, and the largest value in one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

Tensors = tuple[torch.Tensor, ...]

# Other kernels round otherwise by less; another function is farther off.
_ROUNDING = 0.5


def tensors_among(values: Iterable[Any]) -> list[torch.Tensor]:
    """Return the tensors among arguments or results; lists are looked into, and tuples."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_among(value)
    return found


def memory_of(tensor: torch.Tensor) -> int:
    """Return the identity of the memory under a dense tensor."""
    return int(tensor.untyped_storage()._cdata)


def are_apart(tensors: Sequence[torch.Tensor]) -> bool:
    """Tell whether each tensor has its own memory."""
    return len({*map(memory_of, tensors)}) == len(tensors)


def overlaps_itself(tensor: torch.Tensor) -> bool:
    """Tell whether elements of a tensor may share memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape)):
        if size > 1 and stride <= reach:
            return tensor.numel() > 0
        reach += stride * (size - 1)
    return False


def is_whole(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is all that lies in its memory, in order."""
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def largest_finite(values: torch.Tensor) -> torch.Tensor:
    """Return the largest finite magnitude; 0 if there is none."""
    magnitudes = values.abs().nan_to_num_(0.0, 0.0, 0.0)
    return magnitudes.amax() if magnitudes.numel() else magnitudes.new_zeros(())


def same_to_rounding(mine: torch.Tensor, yours: torch.Tensor, tolerance: float | None = None) -> bool:
    """Tell whether two tensors differ by no more than rounding: other kernels round otherwise."""
    tolerance = torch.finfo(yours.dtype).eps ** _ROUNDING if tolerance is None else tolerance
    largest = float(largest_finite(yours))
    return torch.allclose(mine, yours, rtol=tolerance, atol=tolerance * largest, equal_nan=True)


def rows_of(values: torch.Tensor) -> torch.Tensor:
    """Return ``(k, *shape)`` as a matrix of k rows, also where a row is one number or none."""
    return values.reshape(len(values), values.shape[1:].numel())


def wide_type(device: torch.device) -> torch.dtype:
    """Return the most precise type that a device has."""
    return torch.float32 if device.type == "mps" else torch.float64
