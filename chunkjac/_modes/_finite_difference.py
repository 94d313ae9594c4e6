"""Finite differences: each chunk is one batch of perturbed inputs.

Source:
    The method of the paper JacrevFinite (its *plus* and *minus* are ``forward`` and
    ``backward`` here), a chunk at a time instead of all n + 1 copies at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._bounds import Bounds, check_bounds
from chunkjac._chunker import PerturbedCopies, Segment
from chunkjac._errors import ArgumentError, FunctionError
from chunkjac._linear import Programs
from chunkjac._modes._analytic import check_analytic
from chunkjac._modes._batching import LOOP, Rung, fall_from_native, find_rung
from chunkjac._modes._error_estimate import estimate_error
from chunkjac._modes._mode import Block
from chunkjac._modes._one_by_one import OneByOne
from chunkjac._modes._precision import PrecisionSeen
from chunkjac._modes._rows import RowCheck
from chunkjac._modes._slopes import limit_of, slopes_of
from chunkjac._problem import Problem
from chunkjac._randomness import RandomState
from chunkjac._schemes import find_scheme, tiny_step
from chunkjac._stencil import Placed, Stencil
from chunkjac._steps import Step, Steps, check_steps
from chunkjac._types import Outputs
from chunkjac._watching import at_rest

# How many roundings two evaluations at the same point may differ by (parallel sums).
_NOISE = 100

# A function that draws random numbers need not show it at once: a mask may be the same twice.
_TRIES = 3


class FiniteDifference:
    """Make columns of the Jacobian without derivatives.

    The base point is in every batch that needs it: kernels round differently for different
    batch sizes (2e-7 between 1 and 16 in float32, measured), and that difference would be
    divided by the step.

    Args:
        problem: The function and its inputs.
        scheme: The name of a scheme.
        step: The step of each leaf, checked.
        batching: How the function takes several points: ``"auto"``, a rung, or the dimension of a native batch.
        bounds: The limits of each leaf, if there are any.

    Memory:
        Keeps a batch of perturbed copies, and copies of inputs that are not contiguous; where points
        are evaluated one after the other, a single copy.
    """

    name: ClassVar[str] = "finite-difference"
    by_rows: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        *,
        scheme: str = "central",
        step: tuple[Step, ...] | None = None,
        batching: str | int = "auto",
        bounds: Sequence[Bounds] | None = None,
    ) -> None:
        self.flows = True
        self.problem = problem.with_inputs([x.contiguous() for x in problem.inputs])
        self._scheme = find_scheme(scheme) if bounds is None else find_scheme(scheme).bounded()
        given = step or (None,) * len(problem.inputs)
        self._check(given, bounds)
        first = _First.of(self.problem)
        self.outputs = first.outputs
        leaves = (*problem.leaves, *self.outputs.leaves)
        self._eps = max(first.eps, *(torch.finfo(leaf.dtype).eps for leaf in leaves))
        if self._scheme.is_complex:
            with at_rest():
                check_analytic(self.problem, bounds, self._eps)
            given = tuple(tiny_step(self._eps) if h is None else h for h in given)
        self._stencil = Stencil(self.problem.inputs, self._scheme, Steps.of(given, self._scheme, self._eps), bounds)
        point = tuple(x.to(x.dtype.to_complex()) if self._scheme.is_complex else x for x in self.problem.inputs)
        self._batching, self._point = batching, point
        with at_rest(), torch.no_grad():
            for _ in range(_TRIES if first.draws else 0):
                first.check_again()
            base = self.problem.flat(*point) if self._scheme.is_complex else first.values
            rung = find_rung(self.problem, batching, point, partial(self._row_check, base=base), first.check_again)
        self._take(rung)
        last = rung.known.point if rung.known else None
        self._copies = PerturbedCopies(point, self._scheme.n_evaluations, self._scheme.with_base, last)
        self._one_by_one = OneByOne(self.problem, self.outputs, point)

    @property
    def fell(self) -> bool:
        """Tell whether copies are evaluated one by one though nobody asked for it."""
        return self.rung == LOOP and self._batching == "auto"

    @property
    def batched(self) -> bool:
        """Tell whether the copies of a chunk are evaluated at once."""
        return self.rung != LOOP

    @property
    def seeds_per_direction(self) -> int:
        """Return how many copies of the inputs a direction takes; a complex one counts twice."""
        return self._scheme.n_evaluations * (1 + self._scheme.is_complex) if self.batched else 0

    @property
    def is_long(self) -> bool:
        """Tell that nothing is prepared."""
        return False

    @property
    def is_new(self) -> bool:
        """Tell that all blocks are made alike."""
        return False

    def quicken(
        self, programs: Programs, *, exact_size: int | None = None, room_bytes: int = 2**62, is_timed: bool = True
    ) -> None:
        """Do nothing: evaluations are not linear."""

    def settle(self, n_left: int) -> None:
        """Return nothing: any chunk size will do."""

    def block(self, chunk: slice, places: Block | None = None) -> Block:
        """Compute columns, ``(k, *output.shape)`` for each output."""
        with torch.no_grad():
            placed = self._stencil.place(chunk)
            values = self._values(chunk, placed) if self.batched else None
            slopes: Iterable[list[torch.Tensor]]
            if values is None:
                slopes = self._one_by_one.slopes(chunk, placed, self._scheme)
            else:
                pairs = zip(values, self.outputs.leaves, strict=True)
                slopes = (slopes_of(value, placed, self._scheme, leaf.dtype) for value, leaf in pairs)
            return tuple(limit_of(levels, placed.powers) for levels in slopes)

    def release(self) -> None:
        """Give the copies back."""
        self._copies.release()
        self._one_by_one.release()

    def close(self) -> None:
        """Give the copies back."""
        self.release()

    def estimate_error(self) -> float:
        """Return the largest absolute error that the Jacobian is thought to have."""
        with torch.no_grad():
            return estimate_error(self._stencil, self._one_by_one, self.outputs.leaves, self._eps)

    def _check(self, given: Sequence[Step], bounds: Sequence[Bounds] | None) -> None:
        """Refuse inputs, steps and bounds that cannot be used."""
        for x in self.problem.inputs:
            if self._scheme.is_complex and x.dtype not in (torch.float32, torch.float64):
                raise ArgumentError(
                    f"scheme='complex' needs inputs of float32 or float64, found {x.dtype}; convert them, or give "
                    "scheme='central'."
                )
        is_fake = any(isinstance(x, FakeTensor) for x in self.problem.inputs)
        if bounds is not None:
            check_bounds(bounds, self.problem.inputs)
        if not is_fake:
            check_steps(given, self._scheme, self.problem.inputs, has_bounds=bounds is not None)

    def _row_check(self, **calls: Any) -> RowCheck:
        """Return the check of a native batch."""
        inputs, steps = self.problem.inputs, self._stencil.steps
        whole = [Segment(i, slice(0, x.numel()), slice(0, x.numel())) for i, x in enumerate(inputs)]
        return RowCheck(
            inputs=inputs,
            leaves=self.outputs.leaves,
            reaches=tuple(steps.of_segment(part, x.view(-1)).view(x.shape) for part, x in zip(whole, inputs)),
            bounds=self._stencil.bounds,
            is_complex=self._scheme.is_complex,
            eps=self._eps,
            **calls,
        )

    def _take(self, rung: Rung) -> None:
        """Go on in a rung."""
        self.rung, self.reasons, self._call, self._known = rung.name, rung.reasons, rung.call, rung.known

    def _values(self, chunk: slice, placed: Placed) -> Block | None:
        """Evaluate the function at all copies of a chunk at once; ``None`` if they must go one by one."""
        while self._call is not None:
            values = self._evaluate(self._call, self._copies.batch(chunk, placed.points))
            if values is not None:
                return values
            self._copies.release()
            if self._known is not None:
                _check_same(self._known.values, self.problem.flat(*(x.clone() for x in self._known.point)))
            fault = (
                f"in a batch for {chunk.stop - chunk.start} directions, a row's value is not that of its point alone"
            )
            self._take(fall_from_native(self.problem, self._batching, self._point, fault))
        return None

    def _evaluate(self, call: Callable[[Block], Block], batch: Block) -> Block | None:
        """Evaluate the function at all copies; ``None`` if the last row of a native batch is not what it is alone."""
        versions = [copies._version for copies in batch]
        values = call(batch)
        if [copies._version for copies in batch] != versions:
            raise FunctionError("func changes its input in place; clone the input in func before writing to it.")
        return values if self._known is None or self._known.is_last_of(values) else None


@dataclass(frozen=True, slots=True)
class _First:
    """Hold what the first evaluation told.

    Attributes:
        problem: The function.
        values: What it gave at the base point.
        outputs: What that says of the outputs.
        eps: The largest machine epsilon among the results of its operations.
        draws: Whether it drew random numbers of torch's.
    """

    problem: Problem
    values: Block
    outputs: Outputs
    eps: float
    draws: bool

    @classmethod
    def of(cls, problem: Problem) -> _First:
        """Evaluate a function for the first time."""
        generators = RandomState.now(problem.devices)
        with PrecisionSeen() as seen:
            values, outputs = problem.evaluate()
        # Copies: some functions write each value into the same memory.
        return cls(problem, tuple(value.clone() for value in values), outputs, seen.eps, generators.has_moved())

    def check_again(self) -> None:
        """Refuse a random function."""
        if not any(isinstance(value, FakeTensor) for value in self.values):
            _check_same(self.values, self.problem.evaluate()[0])


def _check_same(values: Block, again: Block) -> None:
    """Refuse a function that gives something else at the same point: that noise would be divided by the step."""
    for value, other in zip(values, again):
        noise = _NOISE * torch.finfo(value.dtype).eps
        if not torch.allclose(value, other, rtol=noise, atol=noise, equal_nan=True):
            raise FunctionError(
                "func gives different answers for the same input, so its differences mean nothing; "
                "make it deterministic (model.eval() turns dropout off), or use mode='reverse'."
            )
