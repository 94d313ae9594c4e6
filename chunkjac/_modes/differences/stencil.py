"""Where the function is evaluated for a chunk, and how the values are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._chunker import ElementDirections, Segment
from chunkjac._errors import ArgumentError
from chunkjac._modes.differences.bounds import Bounds, check_bounds, find_room
from chunkjac._modes.differences.schemes import Scheme, derivative_weights
from chunkjac._modes.differences.steps import Step, Steps, check_steps
from chunkjac._problem import Leaf
from chunkjac._tensors import Tensors

# So many directions are placed at once.
_SPAN = 4096


@dataclass(frozen=True, slots=True)
class Points:
    """Hold the points of a chunk of k directions.

    Attributes:
        points: What each segment's elements become, ``(evaluations, elements)``.
        weights: ``(levels, weights of a level, k)``; the points are those of one level after the other.
        powers: ``(levels - 1, k)``, the powers of the step in the error.
    """

    points: list[torch.Tensor]
    weights: torch.Tensor
    powers: torch.Tensor


@dataclass(frozen=True)
class Stencil:
    """Place a scheme's points around the inputs.

    Attributes:
        inputs: The base point, a contiguous tensor for each leaf.
        scheme: The formula.
        steps: How far it goes.
        bounds: The limits of each leaf, if there are any; then the scheme is ``bounded``.
    """

    inputs: Sequence[torch.Tensor]
    scheme: Scheme
    steps: Steps
    bounds: Sequence[Bounds] | None = None

    @cached_property
    def directions(self) -> ElementDirections:
        """Return what is moved: one element of the inputs at a time."""
        return ElementDirections([Leaf.of(x) for x in self.inputs])

    def base(self) -> Tensors:
        """Return the base point as the function is given it."""
        return tuple(x.to(x.dtype.to_complex()) if self.scheme.is_complex else x for x in self.inputs)

    def place(self, chunk: slice) -> Points:
        """Return the points and weights of a chunk.

        Raises:
            ArgumentError: A step does not move its element, or moves it out of the dtype's range.
        """
        placed = [self._place(segment) for segment in self.directions.parts(chunk)]
        weights = _joined([one.weights for one in placed])
        if not (isinstance(weights, FakeTensor) or bool(weights.isfinite().all())):
            raise ArgumentError(
                "step moves some elements of the inputs not at all, or out of the range of their dtype (or they are "
                "not finite, or bounds leave too little room); give another step, or inputs of higher precision."
            )
        return Points([one.points[0] for one in placed], weights, _joined([one.powers for one in placed]))

    def reach(self, segment: Segment) -> torch.Tensor:
        """Return how far elements go in one step, to the side where there is more room if that is limited."""
        x = self.inputs[segment.leaf].view(-1)[segment.elements]
        steps = self.steps.of_segment(segment, x)
        if self.bounds is None or self.scheme.is_complex:
            return steps
        limits = self.bounds[segment.leaf].of_segment(segment)
        above, below = limits.high - x, x - limits.low
        farthest = max(self.scheme.all_nodes(on_one_side=True))
        return steps.minimum(torch.maximum(above, below) / farthest) * torch.where(above >= below, 1.0, -1.0).to(x)

    def _place(self, segment: Segment) -> Points:
        """Return the points and weights of one segment."""
        x = self.inputs[segment.leaf].view(-1)[segment.elements]
        steps, scheme = self.steps.of_segment(segment, x), self.scheme
        if scheme.is_complex:
            return Points([torch.complex(x, steps)[None]], 1 / steps[None, None], x.new_empty(0, len(x)))
        moves, powers = [steps * node for node in scheme.all_nodes()], _even(x, scheme)
        if self.bounds is None:
            points = x + torch.stack(moves)
        else:
            bounds = self.bounds[segment.leaf].of_segment(segment)
            room = find_room(x, steps, bounds, scheme)
            is_central = room.signs == 0
            pairs = zip(scheme.all_nodes(), scheme.all_nodes(on_one_side=True))
            moves = [room.steps * torch.where(is_central, node, other * room.signs) for node, other in pairs]
            powers = torch.where(is_central, powers, 2 + torch.arange(len(powers), device=x.device)[:, None])
            points = bounds.clamp(x + torch.stack(moves))
        wide = torch.promote_types(x.dtype, torch.float32)
        offsets = (points.to(wide) - x.to(wide)).view(len(scheme.levels), -1, len(x))
        if scheme.with_base:
            offsets = torch.cat([offsets, torch.zeros_like(offsets[:, :1])], dim=1)
        weights = torch.stack([derivative_weights(level) for level in offsets])
        return Points([points], weights, powers)


class Spans:
    """Give the points of chunks, worked out for many directions at once: it takes some thirty small operations.

    Args:
        stencil: What places them.
    """

    def __init__(self, stencil: Stencil) -> None:
        self._stencil = stencil
        self._span = slice(0, 0)
        self._placed: Points | None = None
        self._latest: tuple[slice, Points] | None = None

    def place(self, chunk: slice) -> Points:
        """Return the points and weights of a chunk.

        Raises:
            ArgumentError: A step does not move its element, or moves it out of the dtype's range.
        """
        if self._latest is not None and self._latest[0] == chunk:
            return self._latest[1]
        if self._placed is None or not self._span.start <= chunk.start <= chunk.stop <= self._span.stop:
            (first, *others) = self._stencil.directions.parts(chunk)
            if others:
                return self._stencil.place(chunk)
            n_behind = self._stencil.directions.leaves[first.leaf].numel - first.elements.stop
            self._placed = self._latest = None  # first, so that old and new are never both alive
            self._span = slice(chunk.start, max(chunk.stop, min(chunk.start + _SPAN, chunk.stop + n_behind)))
            self._placed = self._stencil.place(self._span)
        part = slice(chunk.start - self._span.start, chunk.stop - self._span.start)
        whole = self._placed
        placed = Points([whole.points[0][:, part]], whole.weights[..., part], whole.powers[..., part])
        self._latest = chunk, placed
        return placed


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return what segments say of their elements, side by side, where the first is."""
    return torch.cat([part.to(parts[0]) for part in parts], dim=-1) if len(parts) > 1 else parts[0]


def _even(x: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Return the powers in the error of central differences: 2, 4, 6, ..."""
    powers = 2 * torch.arange(1, len(scheme.levels), device=x.device)
    return powers[:, None].expand(-1, len(x))


def check_points(inputs: Tensors, scheme: Scheme, given: Sequence[Step], bounds: Sequence[Bounds] | None) -> None:
    """Refuse inputs, steps and bounds that cannot be used."""
    for x in inputs:
        if scheme.is_complex and x.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"scheme='complex' needs inputs of float32 or float64, found {x.dtype}; convert them, or give "
                "scheme='central'."
            )
    if bounds is not None:
        check_bounds(bounds, inputs)
    if not any(isinstance(x, FakeTensor) for x in inputs):
        check_steps(given, scheme, inputs, has_bounds=bounds is not None)
