"""Finite differences: each chunk is one batch of perturbed inputs.

Source:
    The method of the paper JacrevFinite (its *plus* and *minus* are ``forward`` and
    ``backward`` here), a chunk at a time instead of all n + 1 copies at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._chunker import BatchLayout, PerturbedCopies, Segment
from chunkjac._errors import ArgumentError, FunctionError
from chunkjac._memory import at_rest, first_line, is_out_of_memory
from chunkjac._modes.differences.analyticity import check_analytic
from chunkjac._modes.differences.bounds import Bounds, check_bounds
from chunkjac._modes.differences.error_estimate import estimate_error
from chunkjac._modes.differences.first_evaluation import FirstEvaluation, check_deterministic
from chunkjac._modes.differences.loop import OneByOne
from chunkjac._modes.differences.rows import RowCheck, same_within_noise
from chunkjac._modes.differences.rungs import LOOP, BatchRung, fall_from_native, find_rung, known_native
from chunkjac._modes.differences.schemes import find_scheme, tiny_step
from chunkjac._modes.differences.slopes import limit_of, slopes_of
from chunkjac._modes.differences.stencil import Points, Spans, Stencil
from chunkjac._modes.differences.steps import Step, Steps, check_steps
from chunkjac._modes.mode import OtherWayError
from chunkjac._modes.vmap import is_warm
from chunkjac._problem import Guard, Problem
from chunkjac._programs import DifferenceProgram, ModeRecord, PlainEvaluation, Records, Usage
from chunkjac._tensors import Tensors

# A function that draws random numbers need not show it at once: a mask may be the same twice.
_TRIES = 3

# In a batch, an evaluation takes a small part of what it takes alone; the whole is long from here on.
_LEAST_SHARE, _LONG_S = 1 / 40, 0.05


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
        programs: What earlier runs of a plan have found out.

    Memory:
        Keeps a batch of perturbed copies, and copies of inputs that are not contiguous; where points
        are evaluated one after the other, a single copy.
    """

    name: ClassVar[str] = "finite-difference"
    by_rows: ClassVar[bool] = False
    gives_away: ClassVar[bool] = False

    def __init__(
        self,
        problem: Problem,
        *,
        scheme: str = "central",
        step: tuple[Step, ...] | None = None,
        batching: str | int = "auto",
        bounds: Sequence[Bounds] | None = None,
        programs: Records | None = None,
    ) -> None:
        self.flows = True
        self.problem = problem.with_inputs([x.contiguous() for x in problem.inputs])
        self._scheme = find_scheme(scheme) if bounds is None else find_scheme(scheme).bounded()
        given = step or (None,) * len(problem.inputs)
        self._check(given, bounds)
        self._record = programs.of(self.name) if programs is not None else ModeRecord()
        seen = None if self._scheme.is_complex or problem.has_aux else self._record.seen_of(self.problem)
        first, self._evaluation_s = None, 0.0
        self._is_trusted = seen is not None
        if seen is None:
            started_s = time.perf_counter()
            first = FirstEvaluation.of(self.problem)
            self._evaluation_s = time.perf_counter() - started_s
            self._record.forget()
            seen = first.seen
        self._seen, self.outputs, self._eps = seen, seen.outputs, seen.eps
        self._guard = Guard(self.problem) if first and programs is not None and programs.is_kept else None
        if self._scheme.is_complex:
            with at_rest():
                check_analytic(self.problem, bounds, self._eps)
            given = tuple(tiny_step(self._eps) if h is None else h for h in given)
        self._stencil = Stencil(self.problem.inputs, self._scheme, Steps.of(given, self._scheme, self._eps), bounds)
        self._places: Stencil | Spans = self._stencil
        self.writes_in_place = False  # to hold other memory than a dry run does, since nobody counts it
        point = tuple(x.to(x.dtype.to_complex()) if self._scheme.is_complex else x for x in self.problem.inputs)
        self._batching, self._point = batching, point
        with at_rest(), torch.no_grad():
            self._take(
                self._first_rung(first) if first else known_native(self.problem, batching, seen.rung, self._row_check)
            )
        self._last = self._known.point if self._known else ()
        self._copies = PerturbedCopies(point, self._scheme.n_evaluations, self._scheme.with_base, self._last or None)
        self._one_by_one = OneByOne(self.problem, self.outputs, point)
        self._evaluations: DifferenceProgram | None = None

    def _first_rung(self, first: FirstEvaluation) -> BatchRung:
        """Return the highest rung that can run the function."""
        for _ in range(_TRIES if first.draws else 0):
            first.check_again()
        base = self.problem.flat(*self._point) if self._scheme.is_complex else first.values
        check = partial(self._row_check, base=base)
        return find_rung(self.problem, self._batching, self._point, check, first.check_again)

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
    def largest_bytes(self) -> int:
        """Return what the largest tensor of a direction takes, twice: evaluations are fastest in half the memory.

        A convolution whose results have 8 MiB is 8 times slower than one of 4 MiB (measured): memory that is given
        back to the system each time has to be taken page by page.
        """
        return 2 * max(1, self.seeds_per_direction) * self._seen.largest_bytes

    @property
    def rung(self) -> str:
        """Return the name of the way in which copies are evaluated."""
        return f"{self._rung}, as a program" if self._evaluations and self._evaluations.was_used else self._rung

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why it is no faster way."""
        refused = self._evaluations.refused if self._evaluations else ""
        return (*self._reasons, f"no program: {refused}") if refused else self._reasons

    @property
    def is_long(self) -> bool:
        """Tell whether it takes long enough for recording an evaluation to pay: where there are matrix products."""
        n_evaluations = self._scheme.n_evaluations * sum(leaf.numel for leaf in self.problem.leaves)
        return self._seen.has_products and self._evaluation_s * _LEAST_SHARE * n_evaluations > _LONG_S

    @property
    def is_new(self) -> bool:
        """Tell whether the next block is the first that a program makes."""
        return self._evaluations is not None and self._evaluations.is_new

    def use_programs(self, programs: Records, usage: Usage) -> None:
        """Let evaluations be recorded, where that is worth it, and points be worked out for many chunks at once."""
        if not usage.is_counted:
            self._places, self.writes_in_place = Spans(self._stencil), True
        is_precise = self._eps <= torch.finfo(torch.float32).eps  # else nothing shows that a program is right
        is_plain = self.problem.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self._call is None or self._scheme.is_complex or not (is_precise and is_plain) or usage.is_repeatable:
            return
        evaluation = PlainEvaluation(
            problem=self.problem,
            call=self._call,
            batch=self._batch,
            copies=self._made_up,
            last=self._last,
            agrees=partial(same_within_noise, eps=self._eps),
            seen=self._seen,
            is_trusted=self._is_trusted,
        )
        self._evaluations = DifferenceProgram(evaluation, self._record, usage)

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell that what a program holds is counted in each run."""
        return False

    def wanted_size(self, n_left: int) -> int | None:
        """Return the only chunk size that a program takes; ``None`` if there is none."""
        return self._evaluations.wanted_size(n_left) if self._evaluations is not None else None

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Compute columns, ``(k, *output.shape)`` for each output."""
        with torch.no_grad():
            values, n_more = self._by_program(chunk)
            if values is not None:
                chunk = slice(chunk.start - n_more, chunk.stop)
            placed = self._places.place(chunk)
            if values is None and self.batched:
                values = self._values(chunk, placed)
            if values is None:
                slopes = self._one_by_one.slopes(chunk, placed, self._scheme)
                return tuple(limit_of(levels, placed.powers) for levels in slopes)
            block = []
            for i, (value, leaf) in enumerate(zip(values, self.outputs.leaves, strict=True)):
                place = places[i] if places is not None and not n_more and self.writes_in_place else None
                block.append(limit_of(slopes_of(value, placed, self._scheme, leaf.dtype, place), placed.powers))
            return tuple(block if not n_more else [columns[n_more:] for columns in block])

    def release(self) -> None:
        """Give the copies back, and a program's memory."""
        if self._evaluations is not None:
            self._evaluations.release()
        self._copies.release()
        self._places = self._stencil
        self._one_by_one.release()

    def close(self) -> None:
        """Give all memory back; leave to later runs of a plan what this one has seen."""
        # Without a row whose value is known, nothing would show that tensors' values have changed what is done.
        if self._guard is not None and self._known is not None and self._guard.holds(self.problem):
            self._record.seen = replace(
                self._seen, outputs=replace(self.outputs, aux=None), rung=self._rung, guard=self._guard
            )
        if self._evaluations is not None:
            self._evaluations.finish()
        self.release()

    def error_estimate(self) -> float:
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

    def _take(self, rung: BatchRung) -> None:
        """Go on in a rung."""
        self._rung, self._reasons, self._call, self._known = rung.name, rung.reasons, rung.call, rung.known

    def _batch(self, chunk: slice) -> Tensors:
        """Return the copies of a chunk."""
        return self._copies.batch(chunk, self._places.place(chunk).points)

    def _made_up(self, n_directions: int) -> BatchLayout:
        """Return how a batch is made up."""
        return BatchLayout(n_directions, self._scheme.n_evaluations, self._scheme.with_base, bool(self._last))

    def _by_program(self, chunk: slice) -> tuple[Tensors | None, int]:
        """Evaluate the copies of a chunk, and of some directions before it, by a program; return how many these are.

        Raises:
            OtherWayError: The program is given up.
        """
        evaluations = self._evaluations
        whole = evaluations.takes(chunk) if evaluations is not None else None
        if evaluations is None or whole is None:
            return None, 0
        try:
            values = evaluations.values(whole)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            evaluations.refuse(first_line(error))
            raise OtherWayError from None
        if self._known is not None and not self._known.is_last_of(values):
            evaluations.refuse("it gives other values than the function")
            raise OtherWayError
        return values, chunk.start - whole.start

    def _values(self, chunk: slice, placed: Points) -> Tensors | None:
        """Evaluate the function at all copies of a chunk at once; ``None`` if they must go one by one."""
        while self._call is not None:
            tells, started_s = is_warm(), time.perf_counter()
            values = self._evaluate(self._call, self._copies.batch(chunk, placed.points))
            if values is not None:
                if self._evaluations is not None and tells:
                    self._evaluations.note(chunk.stop - chunk.start, time.perf_counter() - started_s)
                return values
            self._copies.release()
            if self._evaluations is not None:
                self._evaluations.refuse("the copies are evaluated in another way")
                self._evaluations = None
            if self._known is not None:
                check_deterministic(self._known.values, self.problem.flat(*(x.clone() for x in self._known.point)))
            fault = (
                f"in a batch for {chunk.stop - chunk.start} directions, a row's value is not that of its point alone"
            )
            self._take(fall_from_native(self.problem, self._batching, self._point, fault))
        return None

    def _evaluate(self, call: Callable[[Tensors], Tensors], batch: Tensors) -> Tensors | None:
        """Evaluate the function at all copies; ``None`` if the last row of a native batch is not what it is alone."""
        versions = [copies._version for copies in batch]
        values = call(batch)
        if [copies._version for copies in batch] != versions:
            raise FunctionError("func changes its input in place; clone the input in func before writing to it.")
        return values if self._known is None or self._known.is_last_of(values) else None
