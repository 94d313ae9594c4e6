"""Differences along a random direction, which know nothing of derivatives, and so judge them.

A derivative that is wrong anywhere is off along a random direction with probability one. Each output is judged by its
own size, and allowed what the difference itself may be off by: as much as two steps differ, as rounding explains, and,
where the function has a kink, what lies between its slopes on both sides.

Source:
    Freivalds, Probabilistic machines can use less running time, 1977 (a product checked by random vectors).
    Richardson, The approximate arithmetical solution by finite differences, 1911 (two steps extrapolated).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from chunkjac._modes.referee import random_tangent
from chunkjac._problem import PrecisionWatcher, Problem
from chunkjac._tensors import Tensors, wide_type

# The step is this power of the machine epsilon, of each element's size: there truncation and rounding of a central
# difference are alike, and both far below what a wrong derivative is off by.
STEP_EXPONENT = 0.3

# What rounding may do to derivatives and differences, relative to an output's own slope; at most, in a low precision.
ROUNDING, _LARGEST = 10, 0.3

# Central differences of a single step are exact to this power of the machine epsilon, and 10 times that is allowed.
_PLAIN_EXPONENT = 1 / 3

# How many times the difference between two steps an output may be off, and how many times what it is for most others:
# two steps may agree by chance.
_ROUGH, _USUAL = 3, 30

# Elements below this part of the others' size, or of 1, may not be all that small for the function.
_SMALL = 1e-3

# Where the function is too rough at a step, the next are tried: one for functions that compute in a lower precision
# than their inputs have, and a small one for those that change fast.
_LOW = (torch.float32, torch.bfloat16)
_SHORTER = 1 / 64
_TOO_ROUGH, _ROUGHLY = 1e-3, 0.01

# An output that is more uncertain than this, relative to its size, is not known.
NOTHING = 0.7


@dataclass(frozen=True, slots=True)
class Slopes:
    """Hold what differences say of the derivative along a direction.

    Attributes:
        tangent: The direction, like the inputs.
        values: The derivative along it, like the outputs.
        bounds: How far each may be off; infinite where differences know nothing.
        rounding: What of that is there for rounding.
        kinks: Half of what slopes on both sides differ by.
        tolerance: What rounding may do to each, relative to its own size.
    """

    tangent: Tensors
    values: Tensors
    bounds: Tensors
    rounding: Tensors
    kinks: Tensors
    tolerance: float

    @property
    def tell(self) -> bool:
        """Tell whether differences know anything."""
        return any(bool(bound.isfinite().any()) for bound in self.bounds)

    @property
    def tell_all(self) -> bool:
        """Tell whether differences know something of each output."""
        return all(bool(bound.isfinite().all()) for bound in self.bounds)

    @property
    def are_rough(self) -> bool:
        """Tell whether an output is uncertain by more than rounding explains, and much."""
        triples = zip(self.values, self.bounds, self.rounding)
        return any(bool(((b > 2 * r) & (b > _ROUGHLY * v.abs())).any()) for v, b, r in triples)


def slopes_along(problem: Problem, number: int = 0) -> Slopes:
    """Return differences along a fixed direction, at a step at which the function is smooth if there is one.

    Args:
        problem: The function and its inputs.
        number: Which of many directions.
    """
    with torch.no_grad():
        base, eps = base_of(problem)
        coarser = [torch.finfo(dtype).eps for dtype in _LOW]
        steps = [step**STEP_EXPONENT for step in (eps, *(low for low in coarser if low > eps))]
        found = None
        for step in (*steps, _SHORTER * steps[0]):
            tangent = tangent_of(problem.inputs, number, floored=step >= steps[0])
            slopes = slopes_of(problem, base, tangent, eps, step)
            if found is None or _doubts(slopes) < _doubts(found):
                found = slopes
            if _doubts(found) <= (0, max(_TOO_ROUGH, _USUAL * found.tolerance)):
                break
    assert found is not None
    if _doubts(found)[1] > NOTHING:
        return replace(found, bounds=unknown(found))
    return found


def unknown(slopes: Slopes) -> Tensors:
    """Return the bounds of outputs of which nothing is known."""
    return tuple(torch.full_like(bound, torch.inf) for bound in slopes.bounds)


def loosened(slopes: Slopes) -> Slopes:
    """Return the same with as much room as finite differences need that are not extrapolated."""
    largest = max((float(v.abs().max()) for v in slopes.values if v.numel()), default=0.0)
    room = largest * (slopes.tolerance / ROUNDING) ** (2 * _PLAIN_EXPONENT) * ROUNDING
    return replace(slopes, bounds=tuple(bound + min(room, _LARGEST * largest) for bound in slopes.bounds))


def sizes_at(problem: Problem) -> Tensors:
    """Return what rounding goes by in each output."""
    with torch.no_grad():
        return tuple(_size(at, at) for at in base_of(problem)[0])


def _size(at: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return what rounding goes by in each output: of small ones too, which may be differences of large numbers."""
    level = max(float(at.abs().max()), float(value.nan_to_num(0.0).abs().max())) if at.numel() else 0.0
    return at.to(value.dtype).abs() + level


def base_of(problem: Problem) -> tuple[Tensors, float]:
    """Return the outputs, and the largest machine epsilon on the way to them: that of float32 where it is not seen."""
    with PrecisionWatcher() as seen:
        base = tuple(value.detach().clone() for value in problem.flat(*(x.clone() for x in problem.inputs)))
    unseen = torch.finfo(torch.float32).eps if problem.departures.hidden or seen.has_foreign else 0.0
    return base, max(seen.eps, unseen, *(torch.finfo(leaf.dtype).eps for leaf in (*problem.inputs, *base)))


def slopes_of(problem: Problem, base: Tensors, tangent: Tensors, eps: float, step: float) -> Slopes:
    """Return differences of two steps, extrapolated."""
    ahead, behind = _rise(problem, base, tangent, step), _rise(problem, base, tangent, -step)
    ahead_half, behind_half = _rise(problem, base, tangent, step / 2), _rise(problem, base, tangent, -step / 2)
    tolerance = min(_LARGEST, ROUNDING * eps**0.5)
    values, bounds, roundings, kinks = [], [], [], []
    for at, p, q, p2, q2 in zip(base, ahead, behind, ahead_half, behind_half):
        whole, half = (p + q) / 2, (p2 + q2) / 2
        value, rough = (4 * half - whole) / 3, (half - whole).abs()
        size = value.abs() + at.to(value.dtype).abs()
        usual = (rough / size)[(size > 0) & rough.isfinite()]
        usual_part = _USUAL * float(usual.median()) if usual.numel() else 0.0
        rounding = tolerance * value.abs() + ROUNDING * eps / step * _size(at, value)
        bound = _ROUGH * rough + usual_part * size + rounding
        values.append(value)
        roundings.append(rounding.nan_to_num(torch.inf, torch.inf, torch.inf))
        bounds.append(bound.nan_to_num(torch.inf, torch.inf, torch.inf))
        # What is left of the slopes' difference when that of a smooth function, which goes with the step, is taken out.
        kinks.append(((2 * (p2 - q2) - (p - q)).abs() / 2).nan_to_num(0.0, 0.0, 0.0))
    return Slopes(tangent, tuple(values), tuple(bounds), tuple(roundings), tuple(kinks), tolerance)


def _rise(problem: Problem, base: Tensors, tangent: Tensors, step: float) -> Tensors:
    """Return the slope from the base point to one a step away, in the widest type there is."""
    moved = problem.flat(*(x + step * t for x, t in zip(problem.inputs, tangent)))
    return tuple(_difference(value, at) / step for value, at in zip(moved, base))


def _difference(value: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    """Return what a value has changed by; what is infinite at both points is no number."""
    wide = wide_type(at.device)
    return value.detach().to(wide) - at.to(wide)


def _doubts(slopes: Slopes) -> tuple[int, float]:
    """Return how many outputs nothing is known of, and how uncertain most others are, relative to their size."""
    known = [bound.isfinite() for bound in slopes.bounds]
    triples = zip(slopes.values, slopes.bounds, known)
    parts = [(bound / (value.abs() + bound))[is_known & (value != 0)] for value, bound, is_known in triples]
    n_unknown = sum(int((~is_known).sum()) for is_known in known)
    return n_unknown, max((float(part.median()) for part in parts if part.numel()), default=0.0)


def tangent_of(inputs: Tensors, number: int, *, floored: bool = True) -> Tensors:
    """Return a random direction in which each element moves by its own size."""
    return tuple(t * _sizes(x, floored) for t, x in zip(random_tangent(inputs, number), inputs))


def _sizes(x: torch.Tensor, floored: bool) -> torch.Tensor:
    """Return how large each element is taken to be; zeros are as large as the others, 1 if there are none."""
    sizes = x.detach().abs()
    if not sizes.numel():
        return sizes
    usual = float(sizes.to(wide_type(x.device)).square().mean()) ** 0.5
    usual = min(usual, 1.0) or 1.0
    sizes = sizes.clamp(min=_SMALL * usual) if floored else sizes
    return sizes.where(x != 0, usual)
