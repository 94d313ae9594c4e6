"""The slope along a move of all elements of the inputs at once."""

from __future__ import annotations

import torch

from chunkjac._chunker import Segment
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
        """Return how far each element may be moved, no farther than the mode does, and to which side."""
        return tuple(self._reach(i, x) for i, x in enumerate(self._problem.inputs))

    def _reach(self, leaf: int, x: torch.Tensor) -> torch.Tensor:
        """Return the same for one leaf."""
        reach, whole = self.eps ** (1 / 3) * x.abs().clamp(min=1), slice(0, x.numel())
        if not self._stencil.scheme.is_complex:
            steps = self._stencil.steps.of_segment(Segment(leaf, whole, whole), x.reshape(-1))
            reach = reach.minimum(steps.view(x.shape))
        if self._bounds is None:
            return reach
        above, below = self._bounds[leaf].high - x, x - self._bounds[leaf].low
        return torch.where(above >= below, 1.0, -1.0).to(x.dtype) * reach.minimum(torch.maximum(above, below) / 2)

    @torch.no_grad()
    def slopes(self, move: Tensors) -> tuple[Tensors, Tensors, Tensors]:
        """Return ``J u`` for a move ``u``, the same over half of it, and the magnitudes of the values.

        The two differ by the error that goes with the length of a move, and by rounding.
        """
        points = (1.0, -1.0, 0.5, -0.5) if self._bounds is None else (0.0, 0.25, 0.5, 1.0)
        values = [self._at(move, part) for part in points]
        sizes = tuple(torch.stack([value.abs() for value in each]).amax(0) for each in zip(*values))
        if self._bounds is None:
            whole = tuple((a - b) / 2 for a, b in zip(values[0], values[1]))
            return whole, tuple(a - b for a, b in zip(values[2], values[3])), sizes
        whole, half = (
            tuple(n * (4 * b - 3 * a - c) for a, b, c in zip(values[0], middle, end))
            for n, middle, end in ((1, values[2], values[3]), (2, values[1], values[2]))
        )
        return whole, half, sizes

    def amplification(self, direction: int) -> float:
        """Return how often the rounding of a value may come in an element of the mode's column."""
        weights = self._stencil.place(slice(direction, direction + 1)).weights
        return 0.0 if self._stencil.scheme.is_complex else float(weights.abs().sum())

    def _at(self, move: Tensors, part: float) -> Tensors:
        """Return copies of the values at a part of a move."""
        values = self._problem.flat(*(x + part * u for x, u in zip(self._problem.inputs, move)))
        return tuple(value.clone() for value in values)
