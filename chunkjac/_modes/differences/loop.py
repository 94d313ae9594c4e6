"""The last rung: one point after the other, in one copy of the inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._chunker import ElementDirections, PerturbedPoint
from chunkjac._errors import FunctionError
from chunkjac._modes.differences.schemes import Scheme
from chunkjac._modes.differences.slopes import imaginary, limit_of
from chunkjac._modes.differences.stencil import Points, Stencil
from chunkjac._problem import Outputs, Problem, check_computed
from chunkjac._tensors import Tensors


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
        slopes = [[leaf.zeros(k) for _ in scheme.levels] for leaf in self._outputs.leaves]
        if scheme.with_base and self._base is None:
            self._base = self.base_values()
        for i, move in enumerate(self._moves(chunk, placed)):
            self._add([[level[i] for level in levels] for levels in slopes], *move, scheme)
        return slopes

    def column(self, number: int, stencil: Stencil) -> tuple[Tensors, float]:
        """Return a column, and how many times the rounding of values is in it."""
        chunk = slice(number, number + 1)
        placed = stencil.place(chunk)
        slopes = self.slopes(chunk, placed, stencil.scheme)
        weights = placed.weights  # the one that is left out is minus the sum of the others
        amplification = float((weights.abs().sum(1) + weights.sum(1).abs()).amax())
        column = tuple(limit_of(levels, placed.powers)[0] for levels in slopes)
        return column, 0.0 if stencil.scheme.is_complex else amplification

    def base_values(self) -> Tensors:
        """Return the values at the base point."""
        return _kept(self._evaluate(self._point.base()))

    def _moves(self, chunk: slice, placed: Points) -> Iterator[tuple[int, int, list[list[Any]], list[list[float]]]]:
        """Yield which element of which input is moved, and for each level to what points, with their weights."""
        n_levels = placed.weights.shape[0]
        for segment, points in zip(self._directions.parts(chunk), placed.points, strict=True):
            elements = range(segment.elements.start, segment.elements.stop)
            all_points = _numbers(points.view(n_levels, -1, len(elements)).permute(2, 0, 1))
            all_weights = _numbers(placed.weights[..., segment.rows].permute(2, 0, 1))
            for each in zip(elements, all_points, all_weights):
                yield segment.leaf, *each

    def _add(
        self,
        slopes: Sequence[Sequence[torch.Tensor]],
        leaf: int,
        element: int,
        all_points: list[list[Any]],
        all_weights: list[list[float]],
        scheme: Scheme,
    ) -> None:
        """Add the slopes in one direction: for each output a tensor of its shape for each level."""
        for number, (points, weights) in enumerate(zip(all_points, all_weights)):
            last = self._base if scheme.with_base else None
            if last is None and not scheme.is_complex:
                last = _kept(self._evaluate(self._point.at(leaf, element, points[-1])))
            for point, weight in zip(points, weights):  # there is no weight for the last value
                values = self._evaluate(self._point.at(leaf, element, point))
                for i, value in enumerate(values):
                    difference = imaginary(value) if last is None else value - last[i]
                    slopes[i][number].add_(difference, alpha=weight)

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
