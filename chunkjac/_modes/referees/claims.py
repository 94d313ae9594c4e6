"""What is said of a Jacobian, in a form that differences can judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, isnan, log, nan

import torch

from chunkjac._modes.referee import inner, random_tangent
from chunkjac._modes.referees.second_looks import linear, shortened
from chunkjac._modes.referees.slopes import Slopes, sizes_at, tangent_of
from chunkjac._problem import Leaf, Problem
from chunkjac._tensors import Tensors

# What two ways to the same derivative may differ by, times the root of the machine epsilon; and, times that itself, of
# the size of the outputs, where little is left of derivatives that cancel.
_ROUNDING = 10

# Errors of outputs have nothing to do with one another: a sum of them is off by so many times the root of squares.
_CHANCE = 3

# Outputs are judged together whose uncertainties are within such a factor; there is no more than its inverse to one of
# which little or nothing is known, so that it hides no other.
_ALIKE = 100

# From this on what rounding may do is so much that errors in a combination of outputs are below it by chance: once in
# some twenty times, where a sum of twenty is allowed a hundredth of each. Another combination is asked then.
_COARSE = 1e-4


@dataclass(frozen=True, slots=True)
class Gap:
    """Hold how far a derivative is from what a referee says.

    Attributes:
        error: Relative to the largest there is.
        agrees: Whether each part of it is as near as it must be.
        clearly: Whether it is so without the room that kinks leave.
        is_whole: Whether there is no part of it of which the referee knows nothing.
    """

    error: float
    agrees: bool
    clearly: bool
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class ByColumns:
    """Say what ``J u`` is: each output is judged by its own size.

    Attributes:
        apply: Returns it.
        problem: The function, and its inputs, which ``u`` is like.
    """

    apply: Callable[[Tensors], Tensors]
    problem: Problem

    def gap(self, slopes: Slopes) -> Gap:
        """Return how far that is from what differences say."""
        return _gap_of_columns(self.apply(slopes.tangent), slopes)

    def slopes(self, number: int, tolerance: float) -> Slopes:
        """Return the same in the words of differences."""
        tangent = tangent_of(self.problem.inputs, number)
        values = self.apply(tangent)
        eps = max(torch.finfo(leaf.dtype).eps for leaf in (*tangent, *values))
        tolerance = max(tolerance, _ROUNDING * eps**0.5)
        rounding = tuple(tolerance**2 / _ROUNDING * size for size in sizes_at(self.problem))
        bounds = tuple((tolerance * v.abs() + part).nan_to_num(inf, inf, inf) for v, part in zip(values, rounding))
        return Slopes(tangent, values, bounds, rounding, tuple(map(torch.zeros_like, values)), tolerance)


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
        n_weights = 2 if slopes.tolerance > _COARSE else 1
        weights = [_weights_by(slopes, self.leaves, number) for number in range(1, 1 + n_weights)]
        parts = [part for one in weights for part in _by_certainty(one, slopes)]
        gaps = [_gap_of_rows(self.apply(weights), weights, slopes) for weights in parts]
        error = max((gap.error for gap in gaps), key=_worst)
        return Gap(error, all(gap.agrees for gap in gaps), all(gap.clearly for gap in gaps))


def judged(claim: ByColumns | ByRows, problem: Problem, slopes: Slopes) -> Gap:
    """Return how far a claim is from differences; from those of shorter steps where these may be wrong or hide much."""
    gap = replace(claim.gap(slopes), is_whole=slopes.tell_all)
    if gap.clearly and not slopes.are_rough:
        return gap
    try:
        shorter = shortened(problem, slopes)
        finer = replace(claim.gap(shorter), is_whole=shorter.tell_all)
        if not finer.agrees:
            finer = replace(claim.gap(linear(problem, shorter)), is_whole=False)
    except Exception:  # there is no room for a second look, or the function cannot be evaluated there
        return gap
    return finer if finer.agrees or gap.agrees else gap


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
    agrees, clearly, apart, largest = True, True, 0.0, 0.0
    for column, value, bound, kink in zip(columns, slopes.values, slopes.bounds, slopes.kinks):
        known = bound.isfinite()
        if not bool(known.any()):
            continue
        off = (column.to(value.device, value.dtype) - value).abs()[known]
        agrees = agrees and bool((off <= (bound + kink)[known]).all())  # not if it is no number
        clearly = clearly and bool((off <= bound[known]).all())
        apart = max(apart, float((off - kink[known]).clamp(min=0).max()), key=_worst)
        largest = max(largest, float(value[known].abs().max()))
    return Gap(apart / largest if largest else apart, agrees, clearly)


def _weights_by(slopes: Slopes, like: Sequence[torch.Tensor | Leaf], number: int) -> Tensors:
    """Return weights under which each output counts alike, whatever its slope; those that are not known do not.

    The first have the slopes' signs, so that an error that all outputs share does not cancel by chance.
    """
    doubts = [_ALIKE * (bound + kink).nan_to_num(0.0, 0.0, 0.0) for bound, kink in zip(slopes.bounds, slopes.kinks)]
    sizes = [torch.maximum(value.abs(), doubt) for value, doubt in zip(slopes.values, doubts)]
    sizes = [size.where(bound.isfinite(), 0) for size, bound in zip(sizes, slopes.bounds)]
    largest = max((float(size.max()) for size in sizes if size.numel()), default=0.0) or 1.0
    weights = []
    for drawn, value, size, bound in zip(random_tangent(like, number), slopes.values, sizes, slopes.bounds):
        least = largest * torch.finfo(drawn.dtype).eps ** 2
        signed = torch.copysign(drawn, value.to(drawn.dtype)) if number == 1 else drawn
        weight = signed * drawn.abs() * (largest / size.clamp(min=least)).to(drawn.dtype)
        weights.append(weight.where(bound.isfinite(), 0))
    return tuple(weights)


def _by_certainty(weights: Tensors, slopes: Slopes) -> list[Tensors]:
    """Return weights for outputs that are about as certain: those of which less is known would hide what is wrong."""
    triples = zip(weights, slopes.bounds, slopes.kinks)
    noise = [(w.abs().to(bound.dtype) * (bound + kink)).where(w != 0, 0) for w, bound, kink in triples]
    all_noise = torch.cat([part.flatten().cpu() for part in noise])
    least = float(all_noise[all_noise > 0].min()) if bool((all_noise > 0).any()) else 1.0
    classes = [(part / least).clamp(min=1).log().div(log(_ALIKE)).floor() for part in noise]
    present = torch.cat([which.flatten().cpu() for which in classes]).unique().tolist()
    return [tuple(w.where(which == one, 0) for w, which in zip(weights, classes)) for one in present] or [weights]


def _worst(error: float) -> tuple[bool, float]:
    """Return what errors are compared by: what is no number is the worst."""
    return isnan(error), error


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
        return Gap(nan, agrees=True, clearly=True)  # an output that is not known may be none, or all, of it
    room = _CHANCE * noise**0.5
    left = max(0.0, off - kinks) if not isnan(off) else off
    return Gap(left / size**0.5 if size else left, left <= room, off <= room)
