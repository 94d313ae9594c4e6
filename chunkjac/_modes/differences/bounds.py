"""The limits of the inputs: the function is never evaluated outside of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import TreeSpec

from chunkjac._arguments import as_float, shown
from chunkjac._chunker import Segment
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._modes.differences.schemes import Scheme
from chunkjac._modes.differences.steps import leaves_like

Limit = torch.Tensor | float

# A step of fewer units in the last place of x tells next to nothing: rounding x alone is 1 % of it.
_LEAST_ROUNDINGS = 64


@dataclass(frozen=True, slots=True)
class Bounds:
    """Hold the limits of one leaf.

    Attributes:
        low: The least that an element may be: a float, or a tensor like the leaf.
        high: The most.
    """

    low: Limit
    high: Limit

    def of_segment(self, segment: Segment) -> Bounds:
        """Return the limits of some elements."""
        low, high = (
            limit.reshape(-1)[segment.elements] if isinstance(limit, torch.Tensor) else limit
            for limit in (self.low, self.high)
        )
        return Bounds(low, high)

    def clamp(self, points: torch.Tensor) -> torch.Tensor:
        """Return points that rounding has not put outside."""
        return points.clamp(min=self.low).clamp(max=self.high)  # each may be a number or a tensor

    def inside(self, x: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
        """Return moved points, those outside moved the other way; at last clamped."""
        is_outside = (moved < self.low) | (moved > self.high)
        return self.clamp(torch.where(is_outside, 2 * x - moved, moved))


@dataclass(frozen=True, slots=True)
class Room:
    """Hold how elements may be moved.

    Attributes:
        steps: The step of each.
        signs: 0 where the formula fits as it is, +1 or -1 where it must be one-sided, and on which side.
    """

    steps: torch.Tensor
    signs: torch.Tensor


def find_room(x: torch.Tensor, steps: torch.Tensor, bounds: Bounds, scheme: Scheme) -> Room:
    """Return the longer of two steps, of the formula as it is and of its one-sided form.

    A step is made shorter where the limits leave less.

    Args:
        x: Some elements.
        steps: How far they should go.
        bounds: Their limits.
        scheme: The formula.
    """
    above, below = (bounds.high - x).clamp_(min=0), (x - bounds.low).clamp_(min=0)
    nodes = scheme.all_nodes()
    up, down = max(0.0, *nodes), max(0.0, *(-node for node in nodes))
    as_it_is = steps.minimum(above / up if up else torch.inf * torch.ones_like(x))
    as_it_is = as_it_is.minimum(below / down if down else torch.inf * torch.ones_like(x))
    on_one_side = steps.minimum(torch.maximum(above, below) / max(scheme.all_nodes(on_one_side=True)))
    side = torch.where(above >= below, 1.0, -1.0).to(x.dtype)
    fits = as_it_is >= on_one_side
    return Room(torch.where(fits, as_it_is, on_one_side), torch.where(fits, torch.zeros_like(x), side))


def read_bounds(bounds: Any, inputs: Sequence[torch.Tensor], spec: TreeSpec) -> tuple[Bounds, ...] | None:
    """Return the limits of each leaf, checked as far as that takes no arithmetic.

    Raises:
        ArgumentTypeError: ``bounds`` is no pair of floats or of tensors.
        ArgumentError: The pair is empty, or tensors are unlike the inputs.
    """
    if bounds is None:
        return None
    if not (isinstance(bounds, (tuple, list)) and len(bounds) == 2):
        raise ArgumentTypeError(f"bounds must be None or a pair (low, high), found {shown(bounds)}.")
    low, high = (_read_limit(limit, inputs, spec) for limit in bounds)
    for least, most in zip(low, high):
        if isinstance(least, float) and isinstance(most, float) and not least < most:
            raise ArgumentError(f"bounds must be (low, high) with low below high, found {shown(bounds)}.")
    return tuple(Bounds(least, most) for least, most in zip(low, high))


def _read_limit(limit: Any, inputs: Sequence[torch.Tensor], spec: TreeSpec) -> tuple[Limit, ...]:
    """Return one limit for each leaf."""
    number = as_float(limit)
    if number is not None:
        if isnan(number):
            raise ArgumentError("bounds must be numbers, found nan; an open end is float('inf').")
        return (number,) * len(inputs)
    wanted = f"must be a pair of floats, or of tensors shaped like the inputs; one is {shown(limit)}"
    return leaves_like("bounds", limit, inputs, spec, wanted)


def check_bounds(bounds: Sequence[Bounds], inputs: Sequence[torch.Tensor]) -> None:
    """Refuse inputs outside of their limits, and limits without room between them.

    Raises:
        ArgumentError: The message names an element.
    """
    for x, limits in zip(inputs, bounds):
        if isinstance(x, FakeTensor):
            continue
        least = _LEAST_ROUNDINGS * torch.finfo(x.dtype).eps * x.abs()
        faults = {
            "x must be within bounds": ~((x >= limits.low) & (x <= limits.high)),
            "bounds leave no room to step": ~((limits.high - x > least) | (x - limits.low > least)),
        }
        for fault, is_bad in faults.items():
            if bool(is_bad.any()):
                at = tuple(int(i) for i in is_bad.nonzero()[0])
                ends = (limits.low, limits.high)
                low, high = (float(end[at]) if isinstance(end, torch.Tensor) else end for end in ends)
                raise ArgumentError(f"{fault}: at index {at}, x is {float(x[at]):.6g} and bounds are ({low}, {high}).")
