"""Finite differences: each chunk is one batch of perturbed inputs.

Source:
    The method of the paper JacrevFinite (its *plus* and *minus* are ``forward`` and ``backward`` here), by chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from chunkjac._chunker import Directions, ElementDirections
from chunkjac._memory import is_out_of_memory
from chunkjac._modes.differences.analyticity import check_analytic
from chunkjac._modes.differences.bounds import Bounds
from chunkjac._modes.differences.column_witness import ColumnWitness
from chunkjac._modes.differences.error_estimate import estimate_error
from chunkjac._modes.differences.evaluator import Evaluated, Evaluator
from chunkjac._modes.differences.first_evaluation import FirstEvaluation
from chunkjac._modes.differences.rows import noises
from chunkjac._modes.differences.rungs import Ladder
from chunkjac._modes.differences.schemes import SCHEMES
from chunkjac._modes.differences.slopes import limit_of, slopes_of
from chunkjac._modes.differences.stencil import Stencil, check_points
from chunkjac._modes.differences.steps import Step, Steps
from chunkjac._modes.referees.trust import is_flat
from chunkjac._problem import Problem
from chunkjac._programs import ModeRecord, Records, Usage
from chunkjac._tensors import Tensors


# A method for each question that is asked of a mode.
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
    flows: ClassVar[bool] = True
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
        self.problem = problem.with_inputs([x.contiguous() for x in problem.inputs])
        self.directions: Directions = ElementDirections(self.problem.leaves)
        self.writes_in_place = False  # to hold other memory than a dry run does, since nobody counts it
        formula = SCHEMES[scheme] if bounds is None else SCHEMES[scheme].bounded()
        given = step or (None,) * len(problem.inputs)
        check_points(self.problem.inputs, formula, given, bounds)

        self._record = programs.of(self.name) if programs is not None else ModeRecord()
        self._first = first = FirstEvaluation.of(self.problem)
        self._seen, self.outputs = first.seen, first.seen.outputs
        self.is_long = first.is_long(formula.n_evaluations * self.directions.n)
        if formula.is_complex:
            check_analytic(first.problem, bounds, self._seen.eps)
        self._stencil = Stencil(self.problem.inputs, formula, Steps.of(given, formula, self._seen.eps), bounds)
        ladder = Ladder(first.problem, batching, self._stencil.base(), self._stencil, first)
        self._evaluator = Evaluator(ladder, self._record.rung)
        self._witness = self.witness() if self._evaluator.rung.known is not None else None

    @property
    def divides_stairs(self) -> bool:
        """Tell whether the function goes up in stairs, if at all, as far as torch sees: then zeros are right."""
        return is_flat(self.problem)

    @property
    def fell(self) -> bool:
        """Tell whether copies are evaluated one by one though nobody asked for it."""
        return self._evaluator.fell

    @property
    def batched(self) -> bool:
        """Tell whether the copies of a chunk are evaluated at once."""
        return self._evaluator.rung.call is not None

    @property
    def seeds_per_direction(self) -> int:
        """Return how many copies of the inputs a direction takes; a complex one counts twice."""
        scheme = self._stencil.scheme
        return scheme.n_evaluations * (1 + scheme.is_complex) if self.batched else 0

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
        program, name = self._evaluator.program, self._evaluator.rung.name
        return f"{name}, as a program" if program is not None and program.was_used else name

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why it is no faster way."""
        program, reasons = self._evaluator.program, self._evaluator.rung.reasons
        return (*reasons, f"no program: {program.refused}") if program is not None and program.refused else reasons

    @property
    def is_new(self) -> bool:
        """Tell whether the next block is the first that a program makes."""
        return self._evaluator.program is not None and self._evaluator.program.is_new

    def program_bytes(self, direction_bytes: int) -> int:
        """Return what the next chunk by a program takes; see :meth:`Mode.program_bytes`."""
        return self._evaluator.chunk_bytes(direction_bytes)

    def use_programs(self, programs: Records, usage: Usage) -> None:
        """Let evaluations be recorded, where that is worth it, and points be worked out for many chunks at once."""
        if not usage.is_counted:
            self._evaluator.look_ahead()
            self.writes_in_place = True
        is_precise = self._seen.eps <= torch.finfo(torch.float32).eps  # else nothing shows that a program is right
        is_plain = self.problem.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if is_precise and is_plain and usage.is_timed and not self._stencil.scheme.is_complex:
            self._evaluator.use_program(self._record, usage)

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell that what a program holds is counted in each run."""
        return False

    def wanted_size(self, n_left: int) -> int | None:
        """Return the only chunk size that a program takes; ``None`` if there is none."""
        return self._evaluator.program.wanted_size(n_left) if self._evaluator.program is not None else None

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Compute columns, ``(k, *output.shape)`` for each output."""
        with torch.no_grad():
            made = self._evaluator.evaluate(chunk)
            block = self._columns(made, chunk, places)
            if made.values is not None and self._witness is not None:
                self._witness.add(chunk, block)
            return block

    def _columns(self, made: Evaluated, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Put the columns of a chunk together."""
        scheme, leaves = self._stencil.scheme, self.outputs.leaves
        if made.values is None:
            slopes = self._evaluator.one_by_one.slopes(chunk, made.placed, scheme)
            return tuple(limit_of(levels, made.placed.powers) for levels in slopes)
        n_more = chunk.start - made.chunk.start
        lent = places if places is not None and not n_more and self.writes_in_place else (None,) * len(leaves)
        block = tuple(
            limit_of(slopes_of(value, made.placed, scheme, leaf.dtype, place), made.placed.powers)
            for value, leaf, place in zip(made.values, leaves, lent, strict=True)
        )
        return tuple(columns[n_more:] for columns in block) if n_more else block

    def is_confirmed(self) -> bool:
        """Tell whether batches have given what single points give; if not, blocks are to be made in another way.

        Raises:
            FunctionError: The function gives something else at the same point than at first. (In a batch, each chunk
                has told that.)
        """
        self._evaluator.rest()  # so that a point has the room of a chunk
        with torch.no_grad():
            if not self.batched:
                self._first.check_again()  # at the real point, where steps are complex
            return self._witness is None or self._is_right(self._witness)

    def _is_right(self, witness: ColumnWitness) -> bool:
        """Tell whether columns are right; where there is no room to tell, others are made one after the other."""
        try:
            return witness.agrees() or self._has_no_fault(witness)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._evaluator.give_up("there is no room to compare its columns")
        self._evaluator.has_given_up()
        witness.forget()
        if not self.batched:
            self._witness = None  # all columns come again, one by one: there is nothing to compare
        return False

    def _has_no_fault(self, witness: ColumnWitness) -> bool:
        """Tell whether columns are right though their combination is not; else begin again in another way."""
        evaluator = self._evaluator
        if not evaluator.has_given_up():  # else some blocks were made in a way in which they cannot be made again
            again = lambda chunk: self._columns(evaluator.evaluate(chunk), chunk)  # noqa: E731 - in the same way
            if not witness.has_wrong_column(again, evaluator.one_by_one):
                return True
            evaluator.give_up("a column is not what its points give one after the other")
            evaluator.has_given_up()
        witness.forget()
        return False

    def release(self) -> None:
        """Give the copies back, and a program's memory."""
        self._evaluator.release()

    def close(self) -> None:
        """Give all memory back; leave to later runs of a plan what this one has seen."""
        program = self._evaluator.program
        if program is not None:
            program.finish()
        self._record.rung = self._evaluator.rung.name
        self.release()

    @property
    def eps(self) -> float:
        """Return the machine epsilon that the function computes with."""
        return self._seen.eps

    def witness(self) -> ColumnWitness:
        """Return what compares columns with a difference along all of them."""
        known = self._evaluator.rung.known  # there is none where points are evaluated one by one
        tolerances = known.tolerances if known is not None else noises(self._first.values, self._seen.eps)
        return ColumnWitness(self._first.problem, self._stencil, self._seen, tolerances)

    def column_alone(self, number: int) -> tuple[Tensors, float, Tensors]:
        """Return a column by single points, how often the rounding of values is in it, and the values at the point."""
        with torch.no_grad():
            return *self._evaluator.one_by_one.column(number, self._stencil), self._first.values

    def error_estimate(self) -> float:
        """Return the largest absolute error that the Jacobian is thought to have."""
        with torch.no_grad():
            return estimate_error(self._stencil, self._evaluator.one_by_one, self._seen.eps)
