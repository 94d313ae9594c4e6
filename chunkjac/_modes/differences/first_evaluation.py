"""The first evaluation of a function: what its outputs are like, and whether it gives the same again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._errors import FunctionError
from chunkjac._problem import PrecisionWatcher, Problem, RandomState
from chunkjac._programs import SeenByDifferences
from chunkjac._tensors import Tensors

# How many roundings two evaluations at the same point may differ by (parallel sums).
_NOISE = 100


@dataclass(frozen=True, slots=True)
class FirstEvaluation:
    """Hold what the first evaluation told.

    Attributes:
        problem: The function.
        values: What it gave at the base point.
        seen: What that says of it.
        draws: Whether it drew random numbers of torch's.
    """

    problem: Problem
    values: Tensors
    seen: SeenByDifferences
    draws: bool

    @classmethod
    def of(cls, problem: Problem) -> FirstEvaluation:
        """Evaluate a function for the first time."""
        generators = RandomState.now(problem.devices)
        with PrecisionWatcher() as look:
            values, outputs = problem.evaluate()
        # Copies: some functions write each value into the same memory.
        copies = tuple(value.clone() for value in values)
        largest_bytes = max(look.largest_bytes, *(leaf.n_bytes for leaf in (*problem.leaves, *outputs.leaves)), 1)
        seen = SeenByDifferences(outputs, look.eps, look.n_operations, look.has_products, largest_bytes)
        return cls(problem, copies, seen, generators.has_moved())

    def check_again(self) -> None:
        """Refuse a random function."""
        if not any(isinstance(value, FakeTensor) for value in self.values):
            check_deterministic(self.values, self.problem.evaluate()[0])


def check_deterministic(values: Tensors, again: Tensors) -> None:
    """Refuse a function that gives something else at the same point: that noise would be divided by the step."""
    for value, other in zip(values, again):
        noise = _NOISE * torch.finfo(value.dtype).eps
        if not torch.allclose(value, other, rtol=noise, atol=noise, equal_nan=True):
            raise FunctionError(
                "func gives different answers for the same input, so its differences mean nothing; "
                "make it deterministic (model.eval() turns dropout off), or use mode='reverse'."
            )
