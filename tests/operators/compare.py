"""When two Jacobians are the same."""

from __future__ import annotations

import torch

from tests.operators.referees import Jacobian

# Two formulas differ by many roundings; this part of the digits of the lower precision must agree.
_DIGITS = 0.6

# What is as small as this beside the largest entry may be lost beside it.
_LOST = 1e-3

# The error of central differences in double precision, with room.
_DIFFERENCE = 1e-4


def same_shapes(left: Jacobian, right: Jacobian) -> bool:
    """Tell whether number, layouts and shapes agree."""
    return [(part.shape, part.layout) for part in left] == [(part.shape, part.layout) for part in right]


def same_forms(left: Jacobian, right: Jacobian) -> bool:
    """Tell whether number, layouts, shapes and dtypes agree."""
    return same_shapes(left, right) and [part.dtype for part in left] == [part.dtype for part in right]


def equal(left: Jacobian, right: Jacobian) -> bool:
    """Tell whether all entries agree."""
    return same_shapes(left, right) and all(bool(agree(a, b).all()) for a, b in zip(left, right))


def agree(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Tell of each entry whether it agrees; infinite ones and NaN with their like."""
    eps = max(torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps) ** _DIGITS
    a, b = a.double(), b.double()
    return torch.isclose(a, b, rtol=eps, atol=eps * _LOST * max(1.0, _largest_of(b)), equal_nan=True)


def near(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Tell of each entry whether it agrees as far as differences can tell."""
    a, b = a.double(), b.double()
    return (a - b).abs() <= _DIFFERENCE * max(1.0, _largest_of(b))


def distance(left: Jacobian, right: Jacobian) -> float:
    """Return the largest difference of two entries; infinity for other shapes, or where one alone is finite."""
    if not same_shapes(left, right):
        return float("inf")
    return max((_apart(a.double(), b.double()) for a, b in zip(left, right)), default=0.0)


def _largest_of(part: torch.Tensor) -> float:
    """Return the largest finite entry."""
    return float(part.abs().nan_to_num(0.0, 0.0, 0.0).amax()) if part.numel() else 0.0


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference of two parts."""
    apart = (a - b).abs().masked_fill(torch.isclose(a, b, equal_nan=True), 0.0)
    return float(apart.nan_to_num(torch.inf).amax()) if apart.numel() else 0.0
