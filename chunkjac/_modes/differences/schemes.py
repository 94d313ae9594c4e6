"""Difference formulas: where the function is evaluated, and the weights of its values.

Source:
    Fornberg, Generation of finite difference formulas on arbitrarily spaced grids, 1988: the
    weights of a formula are those of the polynomial through its points, differentiated.
    Ridders, Accurate computation of F'(x) and F'(x)F''(x), 1982 (after Richardson, 1911): the
    extrapolation of central differences, with its error.
    Squire and Trapp, Using complex variables to estimate derivatives of real functions, 1998.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True, slots=True)
class Scheme:
    """Hold a difference formula.

    Attributes:
        nodes: Where the function is evaluated, in steps from the base point.
        one_sided: The same where there is room on one side only (see ``bounds``); of the same order.
        with_base: Whether the base point itself is one of the points.
        order: The power of the step that the error goes with.
        levels: The formula is used with these parts of the step, and extrapolated if there are several.
        is_complex: Whether the step goes along the imaginary axis.
    """

    nodes: tuple[float, ...]
    one_sided: tuple[float, ...]
    with_base: bool
    order: int
    levels: tuple[float, ...] = (1.0,)
    is_complex: bool = False

    @property
    def n_evaluations(self) -> int:
        """Return how often a direction evaluates the function, the base point aside."""
        return len(self.nodes) * len(self.levels)

    @property
    def step_exponent(self) -> float:
        """Return the power of the machine epsilon that the step should be: error h^p + eps/h is least there."""
        return 1 / (self.order + 1)

    def all_nodes(self, *, on_one_side: bool = False) -> list[float]:
        """Return the nodes of all levels, level by level."""
        nodes = self.one_sided if on_one_side else self.nodes
        return [level * node for level in self.levels for node in nodes]

    def bounded(self) -> Scheme:
        """Return the formula that also holds where steps must be one-sided: there the base point is needed."""
        return self if self.is_complex else replace(self, with_base=True)


_CENTRAL = (1.0, -1.0)
_CENTRAL_4 = (1.0, -1.0, 2.0, -2.0)

SCHEMES = {
    "forward": Scheme((1.0,), (1.0,), True, 1),
    "backward": Scheme((-1.0,), (1.0,), True, 1),
    "central": Scheme(_CENTRAL, (1.0, 2.0), False, 2),
    "central4": Scheme(_CENTRAL_4, (1.0, 2.0, 3.0, 4.0), False, 4),
    # Four levels take the error from the second order to the eighth.
    "richardson": Scheme(_CENTRAL, (1.0, 2.0), False, 8, levels=(1.0, 1 / 2, 1 / 4, 1 / 8)),
    # Nothing is subtracted, so its step need not be balanced against rounding: see `tiny_step`.
    "complex": Scheme((1.0,), (1.0,), False, 2, is_complex=True),
}

SCHEME_NAMES = tuple(SCHEMES)


def tiny_step(eps: float) -> float:
    """Return the step along the imaginary axis: its square vanishes beside any number worth the name.

    1.1e-19 where anything is computed in float32, 1.5e-154 in float64; the source takes 1e-20.

    Args:
        eps: The machine epsilon that the function computes with.
    """
    dtype = torch.float32 if eps > torch.finfo(torch.float64).eps else torch.float64
    return float(torch.finfo(dtype).tiny ** 0.5)


def derivative_weights(offsets: torch.Tensor) -> torch.Tensor:
    """Return the weights of values at these points in the derivative at 0.

    They are those of the polynomial through all points, so they hold for the points as rounding
    made them. They add up to zero: that of the last point is left out, and its value is to be
    subtracted from the others.

    Args:
        offsets: ``(points, k)``, the points' distances from the base point.

    Returns:
        ``(points - 1, k)``.

    Source:
        Fornberg, 1988, for the first derivative; here as the derivative of Lagrange's form.
    """
    scale = offsets.abs().amax(dim=0)  # so that no product of distances leaves the range of the dtype
    t = offsets / scale
    if len(offsets) == 2:
        return 1 / (t[:1] - t[1:]) / scale
    n_points = len(t)
    weights = torch.empty_like(t[:-1])
    for i in range(n_points - 1):
        others = [m for m in range(n_points) if m != i]
        denominator = torch.stack([t[i] - t[m] for m in others]).prod(dim=0)
        parts = [torch.stack([-t[n] for n in others if n != m] or [torch.ones_like(scale)]) for m in others]
        numerator = torch.stack([part.prod(dim=0) for part in parts]).sum(dim=0)
        weights[i] = numerator / denominator / scale
    return weights


def extrapolate(slopes: Sequence[torch.Tensor], powers: torch.Tensor) -> torch.Tensor:
    """Return the limit of slopes whose step was halved each time.

    Of all entries of the tableau, each element takes the one that differs least from the entries
    that it was made from. What is not finite at a large step is passed over.

    Args:
        slopes: ``(k, ...)`` for each step.
        powers: ``(steps - 1, k)``, the powers of the step in the error that go one after the other.

    Source:
        Ridders, 1982; the error as in Press et al., Numerical Recipes, section 5.7.
    """
    best = slopes[-1]
    error = torch.full_like(best, float("inf"))
    before = [slopes[0]]
    for slope in slopes[1:]:
        row = [slope]
        for j, coarser in enumerate(before):
            factor = (2 ** powers[j] - 1).to(slope.device, slope.dtype).view(-1, *(1,) * (slope.dim() - 1))
            finer = row[-1]
            entry = finer + (finer - coarser) / factor
            off = torch.maximum((entry - finer).abs_(), (entry - coarser).abs_())
            is_better = off <= error
            best, error = torch.where(is_better, entry, best), torch.where(is_better, off, error)
            row.append(entry)
        before = row
    return best
