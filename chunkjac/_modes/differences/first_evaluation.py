"""The first evaluation: what the outputs are like, and whether they are the same again."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_map

from chunkjac._errors import ChunkjacError, FunctionError
from chunkjac._problem import PrecisionWatcher, Problem, without_graph
from chunkjac._programs import SeenByDifferences
from chunkjac._tensors import Tensors, same_to_rounding

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
        problem: The function, with gradients as it is to be evaluated.
        values: What it gave at the base point.
        seen: What that says of it.
        draws: Whether it drew random numbers of torch's.
        seconds: How long it took.
        has_graph: Whether gradients could be taken of what it gave.
    """

    problem: Problem
    values: Tensors
    seen: SeenByDifferences
    draws: bool
    seconds: float
    has_graph: bool

    @classmethod
    def of(cls, problem: Problem) -> FirstEvaluation:
        """Evaluate a function for the first time, with gradients on or off as they are where its Jacobian is asked for.

        So what takes gradients inside can, and what asks whether they are on does what it does when it is called. What
        cannot be evaluated with them (parameters that NumPy reads) is evaluated without.
        """
        if not problem.may_have_grad:
            return cls._of(replace(problem, has_grad=False))
        for has_grad in (True, False):
            try:
                return cls._of(replace(problem, has_grad=has_grad))._without_grad()
            except ChunkjacError:
                raise
            except Exception:
                continue
        return cls._of(replace(problem, has_grad=True))  # raises what the function raises

    @classmethod
    def _of(cls, problem: Problem) -> FirstEvaluation:
        """Evaluate a function."""
        started_s = time.perf_counter()
        with PrecisionWatcher() as look:
            values, outputs = problem.evaluate()
        has_graph = any(value.requires_grad for value in values)
        # Copies: some functions write each value into the same memory.
        copies = tuple(value.detach().clone() for value in values)
        outputs = replace(outputs, aux=tree_map(without_graph, outputs.aux))
        largest_bytes = max(look.largest_bytes, *(leaf.n_bytes for leaf in (*problem.leaves, *outputs.leaves)), 1)
        seen = SeenByDifferences(outputs, look.eps, look.n_operations, look.has_products, largest_bytes)
        return cls(problem, copies, seen, problem.draws.drew, time.perf_counter() - started_s, has_graph)

    def _without_grad(self) -> FirstEvaluation:
        """Go on without gradients where that changes nothing: a graph takes time and memory."""
        bare = replace(self.problem, has_grad=False)
        if not self.has_graph:
            return self  # nothing is recorded, or for the function itself
        try:
            again = bare.evaluate()[0]
        except Exception:
            return self
        return replace(self, problem=bare) if are_same(self.values, again) else self

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
            self.check(self.problem.evaluate()[0])

    def check(self, again: Tensors) -> None:
        """Refuse a function that gave something else at the same point: that noise would be divided by the step."""
        if not are_same(self.values, again):
            raise FunctionError(
                "func gives different answers for the same input, so its differences mean nothing; "
                "make it deterministic (model.eval() turns dropout off), or use mode='reverse'."
            )


def are_same(values: Tensors, again: Tensors) -> bool:
    """Tell whether two evaluations differ by rounding at most, each output by its own size; always so on fakes."""
    if len(values) != len(again) or any(isinstance(value, FakeTensor) for value in values):
        return len(values) == len(again)
    return all(
        value.shape == other.shape and same_to_rounding(other, value, _NOISE * torch.finfo(value.dtype).eps)
        for value, other in zip(values, again)
    )
