"""What is said of a Jacobian, in a form that differences can judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan

import torch

from chunkjac._modes.referee import inner, random_tangent
from chunkjac._modes.referees.slopes import Slopes, shortened
from chunkjac._problem import Leaf, Problem
from chunkjac._tensors import Tensors

# What two ways to the same derivative may differ by, times the root of the machine epsilon.
_ROUNDING = 10


# Errors of outputs have nothing to do with one another: a sum of them is off by so many times the root of squares.
_CHANCE = 3


@dataclass(frozen=True, slots=True)
class Gap:
    """Hold how far a derivative is from what a referee says.

    Attributes:
        error: Relative to the largest there is.
        agrees: Whether each part of it is as near as it must be.
    """

    error: float
    agrees: bool


@dataclass(frozen=True, slots=True)
class ByColumns:
    """Say what ``J u`` is: each output is judged by its own size.

    Attributes:
        apply: Returns it.
        leaves: What ``u`` is like.
    """

    apply: Callable[[Tensors], Tensors]
    leaves: Sequence[Leaf]

    def gap(self, slopes: Slopes) -> Gap:
        """Return how far that is from what differences say."""
        return _gap_of_columns(self.apply(slopes.tangent), slopes)

    def slopes(self, number: int, tolerance: float) -> Slopes:
        """Return the same in the words of differences."""
        tangent = random_tangent(self.leaves, number)
        values = self.apply(tangent)
        eps = max(torch.finfo(leaf.dtype).eps for leaf in (*tangent, *values))
        tolerance = max(tolerance, _ROUNDING * eps**0.5)
        bounds = tuple((tolerance * value.abs()).nan_to_num(torch.inf, torch.inf, torch.inf) for value in values)
        return Slopes(tangent, values, bounds, tuple(map(torch.zeros_like, values)), tolerance)


@dataclass(frozen=True, slots=True)
class ByRows:
    """Say what ``w J`` is: outputs are weighed so that each counts alike, whatever its size.

    Attributes:
        apply: Returns it.
        leaves: What ``w`` is like.
    """

    apply: Callable[[Tensors], Tensors]
    leaves: Sequence[Leaf]

    def gap(self, slopes: Slopes) -> Gap:
        """Return how far that is from what differences say."""
        weights = _weights_by(slopes, self.leaves)
        return _gap_of_rows(self.apply(weights), weights, slopes)


def judged(claim: ByColumns | ByRows, problem: Problem, slopes: Slopes) -> Gap:
    """Return how far a claim is from differences; from those of shorter steps, where it is what they tell."""
    gap = claim.gap(slopes)
    if gap.agrees:
        return gap
    finer = claim.gap(shortened(problem, slopes))
    return finer if finer.agrees else gap


def gap_between(claim: ByColumns | ByRows, other: ByColumns | ByRows, number: int = 0, tolerance: float = 0.0) -> Gap:
    """Return how far two claims are from one another; one of them says columns.

    Args:
        claim: The one.
        other: The other.
        number: Which of many directions is taken.
        tolerance: What rounding may do, relative to an output's size, if that is more than in the outputs' type.
    """
    if isinstance(other, ByColumns):
        return claim.gap(other.slopes(number, tolerance))
    assert isinstance(claim, ByColumns)
    return other.gap(claim.slopes(number, tolerance))


def _gap_of_columns(columns: Tensors, slopes: Slopes) -> Gap:
    """Return how far ``J u`` is from differences along the same direction, each output by its own size."""
    agrees, apart, largest = True, 0.0, 0.0
    for column, value, bound, kink in zip(columns, slopes.values, slopes.bounds, slopes.kinks):
        known = bound.isfinite()
        if not bool(known.any()):
            continue
        off = (column.to(value.device, value.dtype) - value).abs()[known]
        agrees = agrees and bool((off <= (bound + kink)[known]).all())  # not if it is no number
        apart = max(apart, float((off - kink[known]).clamp(min=0).max()), key=lambda part: (isnan(part), part))
        largest = max(largest, float(value[known].abs().max()))
    return Gap(apart / largest if largest else apart, agrees)


def _weights_by(slopes: Slopes, like: Sequence[torch.Tensor | Leaf]) -> Tensors:
    """Return weights under which each output counts alike, whatever its slope; those that are not known do not."""
    sizes = [value.abs().where(bound.isfinite(), 0) for value, bound in zip(slopes.values, slopes.bounds)]
    largest = max((float(size.max()) for size in sizes if size.numel()), default=0.0) or 1.0
    weights = []
    for sign, size, bound in zip(random_tangent(like, 1), sizes, slopes.bounds):
        least = largest * torch.finfo(sign.dtype).eps ** 0.5
        weights.append((sign * (largest / size.clamp(min=least)).to(sign.dtype)).where(bound.isfinite(), 0))
    return tuple(weights)


def _gap_of_rows(rows: Tensors, weights: Tensors, slopes: Slopes) -> Gap:
    """Return how far ``(w J) u`` is from ``w`` times the differences along ``u``."""
    wanted = size = noise = kinks = 0.0
    for weight, *parts in zip(weights, slopes.values, slopes.bounds, slopes.kinks):
        value, bound, kink = (weight.double() * part.where(weight != 0, 0).double() for part in parts)
        wanted += float(value.sum())
        size += float(value.square().sum())
        noise += float(bound.square().sum())
        kinks += float(kink.abs().sum())
    off = abs(inner(rows, slopes.tangent) - wanted)
    if isnan(off) and not all(bool(bound.isfinite().all()) for bound in slopes.bounds):
        return Gap(nan, agrees=True)  # an output that is not known may be none, or all, of it
    off = max(0.0, off - kinks) if not isnan(off) else off
    return Gap(off / size**0.5 if size else off, agrees=off <= _CHANCE * noise**0.5)
