"""The first evaluation: what the outputs are like, and whether they are the same again."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._errors import FunctionError
from chunkjac._problem import PrecisionWatcher, Problem
from chunkjac._programs import SeenByDifferences
from chunkjac._tensors import Tensors

# A function that draws random numbers need not show it at once: a mask may be the same twice.
_TRIES = 3

# In a batch, an evaluation takes a small part of what it takes alone; the whole is long from here on.
_LEAST_SHARE, _LONG_S = 1 / 40, 0.05

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
        seconds: How long it took.
    """

    problem: Problem
    values: Tensors
    seen: SeenByDifferences
    draws: bool
    seconds: float

    @classmethod
    def of(cls, problem: Problem) -> FirstEvaluation:
        """Evaluate a function for the first time."""
        started_s = time.perf_counter()
        with PrecisionWatcher() as look:
            values, outputs = problem.evaluate()
        # Copies: some functions write each value into the same memory.
        copies = tuple(value.clone() for value in values)
        largest_bytes = max(look.largest_bytes, *(leaf.n_bytes for leaf in (*problem.leaves, *outputs.leaves)), 1)
        seen = SeenByDifferences(outputs, look.eps, look.n_operations, look.has_products, largest_bytes)
        return cls(problem, copies, seen, problem.draws.drew, time.perf_counter() - started_s)

    def is_long(self, n_evaluations: int) -> bool:
        """Tell whether so many take long enough for recording one to pay: where there are matrix products."""
        return self.seen.has_products and self.seconds * _LEAST_SHARE * n_evaluations > _LONG_S

    def check_draws(self) -> None:
        """Refuse a function that is random by drawing numbers of torch's."""
        for _ in range(_TRIES if self.draws else 0):
            self.check_again()

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
