"""Second looks at differences, before a derivative is called wrong: stairs, waves, ties."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from chunkjac._modes.referee import random_tangent
from chunkjac._modes.referees.slopes import NOTHING, ROUNDING, STEP_EXPONENT, Slopes, base_of, slopes_of, unknown
from chunkjac._problem import Problem
from chunkjac._tensors import Tensors

# So many steps are tried, each shorter by so much.
_N_SHORTER, _SHORTER_BY = 8, 1 / 8

# Which random numbers part a direction in two, and how often: of three that tie, the same is in the middle by chance
# once in three times.
_PARTS, _N_PARTS = 2000, 8

# Another slope beside the point is that at the point, if it is nearer by so much than that of longer steps.
_NEARER = 0.5

# It is looked for in so many places, as parts of the way that is far and near enough: an edge of a stair may be at one,
# for some outputs. Where most have stairs, all that look like it do.
_PLACES, _MOST = (1.0, -0.7, 0.5), 0.5


def shortened(problem: Problem, slopes: Slopes) -> Slopes:
    """Return differences along the same direction, of shorter steps where those tell otherwise, or more.

    Stairs are as flat beside the point. Where shorter steps tell otherwise at the point alone, it is for rounding: very
    near to 0, all is lost of ``cos(x) - sin(x) / x``.
    """
    with torch.no_grad():
        at = base_of(problem)
        found = _shortened(problem, slopes, at)
    is_other = _are_apart(slopes, found)
    if not any(bool(part.any()) for part in is_other):
        return found
    gaps = [(v - w).abs() for v, w in zip(slopes.values, found.values)]
    is_so_there = [torch.zeros_like(other) for other in is_other]
    for place in _PLACES:
        there = _beside(problem, slopes, place * at[1] ** (STEP_EXPONENT / 2))
        triples = zip(gaps, found.values, there.values, there.bounds)
        is_so = [(u - w).abs() + d <= _NEARER * gap for gap, w, u, d in triples]
        is_so_there = [before | so for before, so in zip(is_so_there, is_so)]
    n_other = sum(int(part.sum()) for part in is_other)
    if sum(int((other & so).sum()) for other, so in zip(is_other, is_so_there)) > _MOST * n_other:
        return found
    return _merged([other & ~so for other, so in zip(is_other, is_so_there)], slopes, found)


def _beside(problem: Problem, slopes: Slopes, far: float) -> Slopes:
    """Return differences of ever shorter steps at a point beside the point."""
    with torch.no_grad():
        beside = problem.with_inputs([x + far * t for x, t in zip(problem.inputs, slopes.tangent)])
        base, eps = base_of(beside)
        return _shortened(beside, slopes_of(beside, base, slopes.tangent, eps, eps**STEP_EXPONENT), (base, eps))


def _shortened(problem: Problem, slopes: Slopes, at: tuple[Tensors, float]) -> Slopes:
    """Return the same, by what is seen from the point.

    What goes up in stairs (a rounded number, a count) is flat between them, and differences of a longer way know
    nothing of that: they all agree on the stairs' mean slope. So do they on what a fast oscillation goes along with:
    that shows in shorter steps being rougher than rounding makes them, and nothing is known before they are smooth.
    """
    base, eps = at
    before = slopes.bounds
    for shorter in range(_N_SHORTER):
        finer = slopes_of(problem, base, slopes.tangent, eps, eps**STEP_EXPONENT * _SHORTER_BY**shorter)
        is_lost = [c > b + ROUNDING * r for b, c, r in zip(before, finer.bounds, finer.rounding)]
        before = finer.bounds
        slopes = _merged(is_lost, replace(finer, bounds=unknown(finer)), _merged(_better(finer, slopes), finer, slopes))
    return slopes


def _better(finer: Slopes, slopes: Slopes) -> list[torch.Tensor]:
    """Tell which outputs differences of shorter steps know, and others know less or otherwise."""
    is_known = [(c < w.abs() * NOTHING) | (c <= 2 * r) for w, c, r in zip(finer.values, finer.bounds, finer.rounding)]
    is_other = _are_apart(slopes, finer)
    pairs = zip(slopes.bounds, finer.bounds, slopes.kinks, finer.kinks)
    is_more = [c + finer_kink < b + kink for b, c, kink, finer_kink in pairs]
    return [known & (other | more) for known, other, more in zip(is_known, is_other, is_more)]


def _are_apart(slopes: Slopes, others: Slopes) -> list[torch.Tensor]:
    """Tell which outputs have other slopes, by more than both may be off."""
    pairs = zip(slopes.values, others.values, slopes.bounds, others.bounds)
    return [(v - w).abs() > b + c for v, w, b, c in pairs]


def _merged(which: list[torch.Tensor], these: Slopes, others: Slopes) -> Slopes:
    """Return these for some outputs, and others for the rest."""
    values, bounds, rounding, kinks = (
        tuple(this.where(is_this, other) for is_this, this, other in zip(which, getattr(these, n), getattr(others, n)))
        for n in ("values", "bounds", "rounding", "kinks")
    )
    return Slopes(others.tangent, values, bounds, rounding, kinks, others.tolerance)


def linear(problem: Problem, slopes: Slopes) -> Slopes:
    """Return the same, but for outputs with kinks, or slopes that are not linear in the direction: they have none.

    Theorem: where a function has a derivative, its slope along a sum of two directions is the sum of those along each.
    A median of numbers that tie has a slope along every line, and no derivative: each of them may be taken for it.
    """
    with torch.no_grad():
        at = base_of(problem)
        found = _linear(problem, slopes, at, lambda part: part)
        if all(map(torch.equal, found.bounds, slopes.bounds)):
            return found
        return _linear(problem, slopes, at, lambda part: _shortened(problem, part, at))  # of stairs, those are linear


def _linear(problem: Problem, slopes: Slopes, at: tuple[Tensors, float], look: Callable[[Slopes], Slopes]) -> Slopes:
    """Return the same, by parts of the direction that are looked at in some way."""
    base, eps = at
    for number in range(_N_PARTS):
        drawn = random_tangent(slopes.tangent, _PARTS + number)
        first = tuple(t * part for t, part in zip(slopes.tangent, drawn))
        rest = tuple(t - part for t, part in zip(slopes.tangent, first))
        parts = [look(slopes_of(problem, base, part, eps, eps**STEP_EXPONENT)) for part in (first, rest)]
        apart = [(v - p - q).abs() for v, p, q in zip(slopes.values, *(part.values for part in parts))]
        room = [b + c + d for b, c, d in zip(slopes.bounds, *(part.bounds for part in parts))]
        is_bent = [
            ~((gap <= most) & most.isfinite() & (kink <= bound))
            for gap, most, kink, bound in zip(apart, room, slopes.kinks, slopes.bounds)
        ]
        slopes = _merged(is_bent, replace(slopes, bounds=unknown(slopes)), slopes)
    return slopes
