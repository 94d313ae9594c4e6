"""Whether a block is what one direction alone tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._problem import FixedNumbers
from chunkjac._tensors import Tensors, largest_finite

# A rule that is wrong is off by more; a float64 function may compute in float32 inside.
_LEAST_TOLERANCE = 1e-4


class DisagreementError(Exception):
    """Say that a block is not what one direction alone tells."""


def agrees_in_one_direction(
    one: Callable[[Tensors], Tensors],
    seeds: Tensors,
    block: Tensors,
    nearer: Callable[[Tensors, Sequence[Tensors]], int],
) -> bool:
    """Compare a block with one direction alone: a random combination of all of its seeds.

    The derivative is linear, so the same combination of the block's rows must come out.

    Args:
        one: Applies the derivative to a single seed.
        seeds: The seeds of the block.
        block: What came of them.
        nearer: Tells which of two candidates for a seed is nearer to the truth.

    Returns:
        Whether they agree. Fakes have no values that could: each of their blocks takes the
        memory of one that is compared.

    Raises:
        DisagreementError: They do not, and the block is wrong.
    """
    n_rows = len(seeds[0])
    weights = _weights(n_rows)
    seed = tuple(_combined(weights, rows) for rows in seeds)
    alone = one(seed)
    together = tuple(_combined(weights, rows) for rows in block)
    agree = [_plainly_agree(*pair, n_rows) for pair in zip(together, alone)]
    if any(isinstance(values, FakeTensor) for values in block):
        return False
    if all(agree):
        return True
    errors = [largest_finite(this - that) for this, that in zip(together, alone)]
    bounds = [_tolerance(weights, rows) for rows in block]
    if all(float(error) <= float(bound) for error, bound in zip(errors, bounds)):
        return True
    # A function may compute in a lower precision than its inputs have: how much rounding
    # there is, a third of the seed tells.
    third = one(tuple(values / 3 for values in seed))
    noise = [largest_finite(3 * part - whole) for part, whole in zip(third, alone)]
    differs = any(float(e) > max(float(bound), 10 * float(n)) for e, bound, n in zip(errors, bounds, noise))
    if differs and nearer(seed, (together, alone)) == 1:
        raise DisagreementError
    return True


def _plainly_agree(these: torch.Tensor, those: torch.Tensor, n_rows: int) -> bool:
    """Tell whether two combinations of so many rows are closer than the bound below, at less expense.

    A sum of k numbers is at most sqrt(k) times their norm, so the largest element of a combination, by
    sqrt(k), lies below the norm that the bound is a part of. What is not finite is not told here.
    """
    if not those.numel():
        return True
    error, largest = (these - those).abs().amax(), those.abs().amax()
    if isinstance(error, FakeTensor):
        return False
    return float(error) <= float(largest) / n_rows**0.5 * _part(those.dtype)  # not if either is NaN


def _weights(n_rows: int) -> torch.Tensor:
    """Return fixed weights of both signs, none near zero."""
    parts = FixedNumbers(n_rows).uniform((2, n_rows), torch.float64)
    return (0.5 + parts[0]) * torch.where(parts[1] < 0.5, -1.0, 1.0)


def _combined(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the weighted sum of rows."""
    combined: torch.Tensor = weights.to(rows.device, rows.dtype) @ rows.reshape(len(rows), -1)
    return combined.view(rows.shape[1:])


def _tolerance(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return how far a combination of rows may be off by rounding."""
    flat = rows.detach().reshape(len(rows), -1)
    if not flat.numel():
        return flat.new_zeros(())
    largest = torch.maximum(flat.amax(1), -flat.amin(1)).nan_to_num_(0, 0, 0)
    return (weights.to(rows.device, rows.dtype) * largest).norm() * _part(rows.dtype)


def _part(dtype: torch.dtype) -> float:
    """Return which part of its size a combination may be off by."""
    return max(torch.finfo(dtype).eps ** 0.5, _LEAST_TOLERANCE)
