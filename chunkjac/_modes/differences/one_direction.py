"""The slope along a move of all elements of the inputs at once."""

from __future__ import annotations

import torch

from chunkjac._modes.differences.stencil import Stencil
from chunkjac._problem import Problem
from chunkjac._tensors import Tensors


class OneDirection:
    """Take differences along moves of all elements, whatever scheme and step the mode has.

    Args:
        problem: The function, and the base point.
        stencil: Where the mode evaluates it. Within bounds, all points are on one side of the base point.
        eps: The machine epsilon that the function computes with.
    """

    def __init__(self, problem: Problem, stencil: Stencil, eps: float) -> None:
        self.eps = eps
        self._problem, self._stencil, self._bounds = problem, stencil, stencil.bounds

    def reaches(self) -> Tensors:
        """Return how far each element may be moved, with the sign of the side where there is more room."""
        steps = [self.eps ** (1 / 3) * x.abs().clamp(min=1) for x in self._problem.inputs]
        if self._bounds is None:
            return tuple(steps)
        reaches = []
        for x, step, bounds in zip(self._problem.inputs, steps, self._bounds):
            above, below = bounds.high - x, x - bounds.low
            sign = torch.where(above >= below, 1.0, -1.0).to(x.dtype)
            reaches.append(sign * step.minimum(torch.maximum(above, below) / 2))
        return tuple(reaches)

    @torch.no_grad()
    def slopes(self, move: Tensors) -> tuple[Tensors, Tensors, list[float]]:
        """Return ``J u`` for a move ``u``, the same over half of it, and the largest value of each output.

        The two differ by the error that goes with the length of a move, and by rounding.
        """
        points = (1.0, -1.0, 0.5, -0.5) if self._bounds is None else (0.0, 0.25, 0.5, 1.0)
        values = [self._at(move, part) for part in points]
        largest = [max(map(_largest, each)) for each in zip(*values)]
        if self._bounds is None:
            whole = tuple((a - b) / 2 for a, b in zip(values[0], values[1]))
            return whole, tuple(a - b for a, b in zip(values[2], values[3])), largest
        whole, half = (
            tuple(n * (4 * b - 3 * a - c) for a, b, c in zip(values[0], middle, end))
            for n, middle, end in ((1, values[2], values[3]), (2, values[1], values[2]))
        )
        return whole, half, largest

    def rounding_of(self, direction: int, largest: float) -> float:
        """Return what rounding may add to an element of a column of the mode's, where the largest value is so large."""
        weights = self._stencil.place(slice(direction, direction + 1)).weights
        return 0.0 if self._stencil.scheme.is_complex else float(4 * self.eps * largest * weights.abs().sum())

    def _at(self, move: Tensors, part: float) -> Tensors:
        """Return copies of the values at a part of a move."""
        values = self._problem.flat(*(x + part * u for x, u in zip(self._problem.inputs, move)))
        return tuple(value.clone() for value in values)


def _largest(values: torch.Tensor) -> float:
    """Return the largest finite magnitude."""
    finite = values.abs().nan_to_num(0, 0, 0)
    return float(finite.max()) if finite.numel() else 0.0
