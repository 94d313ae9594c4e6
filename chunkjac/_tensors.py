"""Tensors among values, and the largest value in one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def tensors_among(values: Iterable[Any]) -> list[torch.Tensor]:
    """Return the tensors among arguments or results; lists are looked into, and tuples."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += tensors_among(value)
    return found


def largest_finite(values: torch.Tensor) -> torch.Tensor:
    """Return the largest finite magnitude; 0 if there is none."""
    magnitudes = values.abs().nan_to_num_(0.0, 0.0, 0.0)
    return magnitudes.amax() if magnitudes.numel() else magnitudes.new_zeros(())
