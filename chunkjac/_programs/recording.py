"""The programs of a derivative, each recorded when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass

from chunkjac._chunker import Directions, Seeds
from chunkjac._problem import Guard, Outputs, Problem
from chunkjac._programs.batch import batched, program_of
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.records import Records
from chunkjac._programs.replay.forms import Form, choose_form
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._programs.resizing import resized, telling_size
from chunkjac._programs.tracing import given_tensors, trace
from chunkjac._programs.usage import Usage


@dataclass(frozen=True, slots=True)
class PlainDerivative:
    """Hold a derivative as it is without a program.

    Attributes:
        mode: The name of the mode.
        problem: The function and its inputs.
        directions: What blocks have rows for.
        by_rows: Whether blocks are rows.
        evaluation_s: How long an evaluation of the function takes.
        n_nodes: How many nodes its graph has; 0 if that is unknown.
    """

    mode: str
    problem: Problem
    directions: Directions
    by_rows: bool
    evaluation_s: float
    n_nodes: int

    @property
    def seed_bytes(self) -> int:
        """Return what a seed takes."""
        return sum(leaf.n_bytes for leaf in self.directions.leaves)


class Recording:
    """Record what earlier runs have not: one direction, and it for as many directions at once as are asked for.

    Args:
        plain: The derivative.
        records: What the plan has so far.
        is_trusted: Whether what is known was seen to be what the function does.

    Attributes:
        is_trusted: Whether what is known was seen to be what the function does.
        was_known: Whether the direction was recorded in an earlier run.
        has_recorded: Whether anything was recorded in this one.
    """

    def __init__(self, plain: PlainDerivative, records: Records, *, is_trusted: bool) -> None:
        self._plain = plain
        self._records = records
        self.is_trusted = is_trusted
        self.was_known = False
        self.has_recorded = False
        self._record = records.of(plain.mode)
        self._guard: Guard | None = None

    @property
    def is_first(self) -> bool:
        """Tell whether this is the first run of the plan."""
        return not self._records.n_runs

    def have_trace(self) -> None:
        """Record a direction, unless that was done and nothing has changed that can be seen.

        Raises:
            NotLinearError: It cannot be recorded.
        """
        record, problem = self._record, self._plain.problem
        if self.is_trusted:
            self.was_known = True
            return
        is_stale = record.guard is not None and record.guard.is_complete and not record.guard.holds(problem)
        self.was_known = record.trace is not None and not is_stale and record.trace.fits(problem)
        if not self.was_known:
            record.forget()
            self.has_recorded = True
            self._guard = Guard(problem) if self._records.is_kept else None
            record.trace = trace(problem, self._plain.directions.leaves, by_rows=self._plain.by_rows)

    def program(self, size: int) -> Program:
        """Return the program for so many directions at once; record it if there is none yet."""
        record = self._record
        if size not in record.programs:
            assert record.trace is not None
            self.has_recorded = True
            telling = telling_size(record.trace.graph)
            if telling is None or size == 1:
                graph = self._batch(size)
            else:
                graph, known_size = record.batch = record.batch or (self._batch(telling), telling)
                graph = resized(graph, known_size, size)
            of_elements = self._plain.directions.are_elements
            record.programs[size] = program_of(graph, len(record.trace.inputs), of_elements=of_elements)
        return record.programs[size]

    def _batch(self, size: int) -> Graph:
        """Record so many directions at once."""
        assert self._record.trace is not None
        seeds = Seeds(self._plain.directions).batch(slice(0, size))
        return batched(self._record.trace, self._record.trace.prologue(self._plain.problem), seeds)[0]

    def started(self, size: int, usage: Usage) -> Running:
        """Return a program for so many directions that has run its prologue for these inputs.

        Memory is kept for the next run where it was counted before, or nobody counts it.
        """
        record, tensors = self._record, given_tensors(self._plain.problem)[0]
        running = record.running.pop(size, None) if not usage.counts_again else None
        if running is not None and running.is_current():
            running.begin(tensors)
            return running
        program = self.program(size)
        n_bytes = program.n_bytes + sum(tensor.nbytes for tensor in tensors)
        owns = not usage.counts_again and self._records.is_kept and n_bytes <= usage.room.kept_bytes
        seeds = Seeds(self._plain.directions)  # what lies behind the last direction are zeros
        running = Running(program, tensors, lambda start: seeds.batch(slice(start, start + size)), owns_inputs=owns)
        if self._records.compiles:
            if size not in record.forms:
                record.forms[size] = choose_form(running)
            running.take(record.forms[size].bind)
        return running

    def form(self, size: int) -> Form | None:
        """Return how the step of so many directions runs; ``None`` if nothing was to be compiled."""
        return self._record.forms.get(size)

    def forget(self) -> None:
        """Let go of what earlier runs have recorded."""
        self.is_trusted = False
        self._record.forget()

    def trust(self, size: int, outputs: Outputs) -> None:
        """Take note that a block was compared with one direction.

        Args:
            size: How many directions the program takes.
            outputs: What the function gives.
        """
        self._record.proven.add(size)
        if self._guard is not None and self._records.is_kept and self._guard.holds(self._plain.problem):
            self._record.guard, self._record.outputs = self._guard, outputs

    def note_run(self, seconds: float, *, by_program: bool) -> None:
        """Take note of a whole run that recorded and compared nothing."""
        times_s = self._record.with_s if by_program else self._record.without_s
        times_s.append(seconds)

    def trust_batches(self, rung: str) -> None:
        """Take note that a rung's batches were compared with one direction."""
        if self._records.is_kept and self._record.plain is None:
            self._record.plain = rung, Guard(self._plain.problem)
