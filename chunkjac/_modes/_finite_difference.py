"""Finite differences: each chunk is one batch of perturbed inputs.

Source:
    The method of the paper JacrevFinite (its *plus* and *minus* are ``forward`` and
    ``backward`` here), a chunk at a time instead of all n + 1 copies at once.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._backoff import first_line, is_out_of_memory
from chunkjac._chunker import PerturbedCopies, segments
from chunkjac._errors import ArgumentError, FunctionError
from chunkjac._modes._mode import Block
from chunkjac._modes._precision import PrecisionSeen
from chunkjac._problem import Problem, check_computed
from chunkjac._steps import SCHEMES, Step, Steps, check_steps
from chunkjac._types import Outputs

_BATCHED = "vmap(f)"
_LOOPED = "loop"

# How many roundings two evaluations at the same point may differ by (parallel sums).
_NOISE = 100


class FiniteDifference:
    """Make columns of the Jacobian without derivatives.

    The base point is in every batch that needs it: kernels round differently for different
    batch sizes (2e-7 between 1 and 16 in float32, measured), and that difference would be
    divided by the step.

    Args:
        problem: The function and its inputs.
        scheme: ``"forward"``, ``"backward"`` or ``"central"``.
        step: The step of each leaf, checked.

    Memory:
        Keeps a batch of perturbed copies, and copies of inputs that are not contiguous.
    """

    name: ClassVar[str] = "finite-difference"
    by_rows: ClassVar[bool] = False

    def __init__(self, problem: Problem, *, scheme: str = "central", step: tuple[Step, ...] | None = None) -> None:
        self.rung = _BATCHED
        self.flows = True
        self.reasons: tuple[str, ...] = ()
        self.problem = problem.with_inputs([x.contiguous() for x in problem.inputs])
        self._scheme = SCHEMES[scheme]
        self.seeds_per_direction = len(self._scheme.signs)
        given = step or (None,) * len(problem.inputs)
        if not any(isinstance(x, FakeTensor) for x in problem.inputs):
            check_steps(given, self._scheme, problem.inputs)
        with PrecisionSeen() as seen:
            self.outputs = _evaluate_twice(self.problem)
        self._find_rung()
        leaves = (*problem.leaves, *self.outputs.leaves)
        eps = max(seen.eps, *(torch.finfo(leaf.dtype).eps for leaf in leaves))
        self._steps = Steps.of(given, self._scheme, eps)
        self._copies = PerturbedCopies(self.problem.inputs, self._scheme.signs, self._scheme.with_base)

    @property
    def fell(self) -> bool:
        """Tell whether copies are evaluated one by one."""
        return self.rung == _LOOPED

    @property
    def batched(self) -> bool:
        """Tell whether the copies of a chunk are evaluated at once."""
        return self.rung == _BATCHED

    def block(self, chunk: slice) -> Block:
        """Compute columns, ``(k, *output.shape)`` for each output."""
        with torch.no_grad():
            parts = list(segments(chunk, self.problem.leaves))
            bases = [self.problem.inputs[part.leaf].view(-1)[part.elements] for part in parts]
            steps = [self._steps.of_segment(part, base) for part, base in zip(parts, bases)]
            taken = torch.cat([self._taken(base, step) for base, step in zip(bases, steps)])
            _check_taken(taken)
            values = self._evaluate(self._copies.batch(chunk, steps))
            k = chunk.stop - chunk.start
            # The second half is the other end of the step, or the base point for all.
            return tuple(_divide(value[:k] - value[k:], taken) for value in values)

    def release(self) -> None:
        """Give the copies back."""
        self._copies.release()

    def _find_rung(self) -> None:
        """Find out whether the function can be batched, on two copies of the point."""
        try:
            self._map(tuple(x.expand(2, *x.shape).contiguous() for x in self.problem.inputs))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.rung = _LOOPED
            self.reasons = (f"one point at a time, since vmap cannot batch func: {first_line(error)}",)

    def _evaluate(self, batch: Block) -> Block:
        """Evaluate the function at each copy, all at once where it can be batched."""
        versions = [copies._version for copies in batch]
        values = self._map(batch) if self.rung == _BATCHED else self._loop(batch)
        if [copies._version for copies in batch] != versions:
            raise FunctionError("func changes its input in place; clone the input in func before writing to it.")
        return values

    def _map(self, batch: Block) -> Block:
        """Evaluate the function at all copies at once."""
        with torch.no_grad():
            values: Block = torch.func.vmap(self.problem.flat)(*batch)
        return values

    def _loop(self, batch: Block) -> Block:
        """Evaluate the function at one copy after the other."""
        leaves, n_rows = self.outputs.leaves, len(batch[0])
        values = tuple(torch.empty((n_rows, *leaf.shape), dtype=leaf.dtype, device=leaf.device) for leaf in leaves)
        for i in range(n_rows):
            found = self.problem.flat(*(copies[i] for copies in batch))
            check_computed(found, batch)
            for value, leaf, now in zip(values, leaves, found, strict=True):
                if now.shape != leaf.shape:
                    raise FunctionError(
                        f"func returned shape {tuple(leaf.shape)} at the base point and {tuple(now.shape)} near it; "
                        "its output must not change shape."
                    )
                value[i] = now
        return values

    def _taken(self, base: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """Return the distance between the two ends as rounding made it."""
        first, *second = (base.add(step, alpha=sign) for sign in self._scheme.signs)
        return first - (second[0] if second else base)


def _evaluate_twice(problem: Problem) -> Outputs:
    """Evaluate the function, twice where that tells something; refuse one that is random.

    The noise of a random function would be divided by the step.
    """
    values, outputs = problem.evaluate()
    if any(isinstance(value, FakeTensor) for value in values):
        return outputs
    for value, again in zip(values, problem.evaluate()[0]):
        noise = _NOISE * torch.finfo(value.dtype).eps
        if not torch.allclose(value, again, rtol=noise, atol=noise, equal_nan=True):
            raise FunctionError(
                "func gives different answers for the same input, so its differences mean nothing; "
                "make it deterministic (model.eval() turns dropout off), or use mode='reverse'."
            )
    return outputs


def _check_taken(taken: torch.Tensor) -> None:
    """Refuse steps that rounding swallows, or that leave the range of the dtype."""
    if isinstance(taken, FakeTensor) or bool((taken.isfinite() & (taken != 0)).all()):
        return
    raise ArgumentError(
        "step moves some elements of the inputs not at all, or out of the range of their dtype (or they are not "
        "finite); give another step, or inputs of higher precision."
    )


def _divide(difference: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
    """Divide each row by its distance, in place."""
    return difference.div_(taken.view(-1, *(1,) * (difference.dim() - 1)))
