"""Values at the points of a stencil, put together to slopes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chunkjac._modes.differences.schemes import Scheme, extrapolate
from chunkjac._modes.differences.stencil import Points


def slopes_of(
    value: torch.Tensor, placed: Points, scheme: Scheme, dtype: torch.dtype, place: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Return the slopes of one output, ``(k, *output.shape)`` for each level.

    They are ``sum(w_i * (f_i - f_last))``: the weights add up to zero, and small differences lose
    less to rounding than large values do.

    Args:
        value: The values at all points, as a batch of copies has them: ``(rows, *output.shape)``.
        placed: The points of the chunk.
        scheme: The formula.
        dtype: The dtype of the output.
        place: Where the slope may be made, if there is a single level.
    """
    k = placed.weights.shape[-1]
    if scheme.is_complex:
        part = imaginary(value[:k])
        return [(part * _column(placed.weights[0, 0], part)).to(dtype)]
    n_levels = len(scheme.levels)
    n_nodes = scheme.n_evaluations // n_levels
    parts = [value[i * k : (i + 1) * k] for i in range(scheme.n_evaluations)]
    slopes = []
    for number in range(n_levels):
        free = parts[number * n_nodes : (number + 1) * n_nodes]
        last = value[k * scheme.n_evaluations :][:1] if scheme.with_base else free.pop()
        is_fit = place is not None and n_levels == 1 and place.dtype == value.dtype and place.is_contiguous()
        slope = torch.sub(free[0], last, out=place) if is_fit else free[0] - last
        slope.mul_(_column(placed.weights[number, 0], slope))
        for i, part in enumerate(free[1:], 1):
            difference = part - last
            slope += difference.mul_(_column(placed.weights[number, i], difference))
        slopes.append(slope)
    return slopes


def limit_of(slopes: Sequence[torch.Tensor], powers: torch.Tensor) -> torch.Tensor:
    """Return the block of one output: where there are several levels, what they tend to."""
    return extrapolate(slopes, powers) if len(slopes) > 1 else slopes[0]


def imaginary(value: torch.Tensor) -> torch.Tensor:
    """Return the imaginary part, also of what is real."""
    return value.imag if value.is_complex() else torch.zeros_like(value)


def _column(weights: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return weights as a factor of rows."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return weights.to(like.device, dtype).view(-1, *(1,) * (like.dim() - 1))
