"""The last rung: one point after the other, in one copy of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._chunker import ElementDirections, PerturbedPoint
from chunkjac._errors import FunctionError
from chunkjac._modes.differences.schemes import Scheme
from chunkjac._modes.differences.slopes import imaginary
from chunkjac._modes.differences.stencil import Points
from chunkjac._problem import Outputs, Problem, check_computed
from chunkjac._tensors import Tensors


@dataclass(frozen=True, slots=True)
class Direction:
    """Hold one direction of a chunk.

    Attributes:
        leaf: The number of the input.
        element: The number of the element in it.
        points: What it becomes, for each level as many as the formula has nodes.
        weights: For each level, those of the points; the last one may have none.
    """

    leaf: int
    element: int
    points: list[list[Any]]
    weights: list[list[float]]


class OneByOne:
    """Compute slopes by evaluating a function at one point after the other.

    Args:
        problem: The function.
        outputs: What it returns.
        inputs: The base point, as the function is given it.

    Memory:
        A copy of the inputs, and three values beside the slopes; the base point's is one of them.
    """

    def __init__(self, problem: Problem, outputs: Outputs, inputs: Sequence[torch.Tensor]) -> None:
        self._problem = problem
        self._outputs = outputs
        self._base: Tensors | None = None  # its values, once they are needed
        self._directions = ElementDirections(problem.leaves)
        self._point = PerturbedPoint(inputs)

    def slopes(self, chunk: slice, placed: Points, scheme: Scheme) -> list[list[torch.Tensor]]:
        """Return slopes, for each output ``(k, *output.shape)`` for each level."""
        k = chunk.stop - chunk.start
        slopes = [
            [torch.zeros((k, *leaf.shape), dtype=leaf.dtype, device=leaf.device) for _ in scheme.levels]
            for leaf in self._outputs.leaves
        ]
        if scheme.with_base and self._base is None:
            self._base = self.base_values()
        for i, direction in enumerate(self.directions(chunk, placed)):
            self.add([[level[i] for level in levels] for levels in slopes], direction, scheme, self._base)
        return slopes

    def directions(self, chunk: slice, placed: Points) -> list[Direction]:
        """Return the directions of a chunk."""
        n_levels = placed.weights.shape[0]
        directions = []
        for segment, points in zip(self._directions.parts(chunk), placed.points, strict=True):
            elements = range(segment.elements.start, segment.elements.stop)
            all_points = _numbers(points.view(n_levels, -1, len(elements)).permute(2, 0, 1))
            all_weights = _numbers(placed.weights[..., segment.rows].permute(2, 0, 1))
            directions += [Direction(segment.leaf, *each) for each in zip(elements, all_points, all_weights)]
        return directions

    def base_values(self) -> Tensors:
        """Return the values at the base point."""
        return _kept(self._evaluate(self._point.base()))

    def add(
        self,
        slopes: Sequence[Sequence[torch.Tensor]],
        direction: Direction,
        scheme: Scheme,
        base: Tensors | None,
        factor: int = 1,
    ) -> None:
        """Add the slopes in one direction to ``slopes``.

        Args:
            slopes: For each output a tensor of its shape for each level; written to.
            direction: Where to evaluate.
            scheme: The formula.
            base: The values at the base point, if the formula has it.
            factor: What to multiply them by.
        """
        for number, (points, weights) in enumerate(zip(direction.points, direction.weights)):
            last = base
            if base is None and not scheme.is_complex:
                last = _kept(self._evaluate(self._point.at(direction.leaf, direction.element, points[-1])))
            for point, weight in zip(points, weights):  # there is no weight for the last value
                values = self._evaluate(self._point.at(direction.leaf, direction.element, point))
                for i, value in enumerate(values):
                    difference = imaginary(value) if last is None else value - last[i]
                    slopes[i][number].add_(difference, alpha=factor * weight)

    def release(self) -> None:
        """Give the copy back."""
        self._base = None
        self._point.release()

    def _evaluate(self, point: Tensors) -> Tensors:
        """Evaluate the function at one point, and check what it gives."""
        values = called(lambda copies: self._problem.flat(*copies), point)
        check_computed(values, point)
        for value, leaf in zip(values, self._outputs.leaves, strict=True):
            if value.shape != leaf.shape:
                raise FunctionError(
                    f"func returned shape {tuple(leaf.shape)} at the base point and {tuple(value.shape)} near it; "
                    "its output must not change shape."
                )
        return values


def called(call: Callable[[Tensors], Tensors], copies: Tensors) -> Tensors:
    """Evaluate a function at copies of its inputs.

    Raises:
        FunctionError: It writes to them.
    """
    versions = [copy._version for copy in copies]
    values = call(copies)
    if [copy._version for copy in copies] != versions:
        raise FunctionError("func changes its input in place; clone the input in func before writing to it.")
    return values


def _kept(values: Tensors) -> Tensors:
    """Return copies: some functions return their input, or write each value into the same memory."""
    return tuple(value.clone() for value in values)


def _numbers(values: torch.Tensor) -> Any:
    """Return numbers as lists; zeros for fakes, which have none."""
    return _zeros(values.shape) if isinstance(values, FakeTensor) else values.tolist()


def _zeros(shape: Sequence[int]) -> Any:
    """Return zeros as lists."""
    return [_zeros(shape[1:]) for _ in range(shape[0])] if shape else 0.0
