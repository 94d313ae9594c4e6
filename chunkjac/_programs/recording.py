"""The programs of a derivative: a direction in each run, all else when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from chunkjac._chunker import Directions, Seeds
from chunkjac._programs.batch import batched, program_of
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.recorder import NotLinearError
from chunkjac._programs.graph.saved import Autograd, GraphReading, saved_step
from chunkjac._programs.graph.script import Script
from chunkjac._programs.graph.step_recorder import followed_step, recorded_step
from chunkjac._programs.records import Records
from chunkjac._programs.replay.forms import Form, choose_form
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._programs.resizing import resized, telling_size
from chunkjac._programs.tracing import Trace, trace_of
from chunkjac._programs.usage import Usage
from chunkjac._tensors import Tensors

# Running a direction and a batch of them on fakes takes so long for each of its operations, beside an evaluation: the
# 1,500 operations of a GPT-2 of 124 M parameters 0.8 s, where computing took 7.5 s, as long as 20 rows. To begin with
# them takes as long as some hundred (8 ms of a call of 42, of a convolutional network of a few operations).
_FAKE_S, _LEAST_NODES = 3e-5, 500


@dataclass(frozen=True, slots=True)
class PlainDerivative:
    """Hold a derivative as it is without a program.

    Attributes:
        way: What it is recorded as: its mode, and by which graph if there are several.
        apply: Applies it to a single seed, by operations that can be batched.
        seed: Returns the seed to record: a combination of all directions.
        directions: What blocks have rows for.
        evaluation_s: How long an evaluation of the function takes.
        n_nodes: How many nodes its graph has; 0 if that is unknown.
        autograd: The graph that it sends seeds through, if that can be read.
    """

    way: str
    apply: Callable[[Tensors], Tensors]
    seed: Callable[[], Tensors]
    directions: Directions
    evaluation_s: float
    n_nodes: int
    autograd: Autograd | None = None

    @property
    def seed_bytes(self) -> int:
        """Return what a seed takes."""
        return sum(leaf.n_bytes for leaf in self.directions.leaves)


class Recording:
    """Record one direction, and what earlier runs have not: it for as many directions at once as are asked for.

    What a direction uses beside the seed is of now; what was made of it in earlier runs is right for any values.

    Args:
        plain: The derivative.
        records: What the plan has so far.

    Attributes:
        has_recorded: Whether anything new was recorded in this one.
        made: What the direction gave; nothing if it was not recorded yet.
    """

    def __init__(self, plain: PlainDerivative, records: Records) -> None:
        self._plain = plain
        self._records = records
        self._record = records.of(plain.way)
        self._values: Tensors = ()
        self.made: Tensors = ()
        self.has_recorded = False

    @property
    def is_first(self) -> bool:
        """Tell whether this is the first run of the plan."""
        return not self._records.n_runs

    def have_trace(self) -> None:
        """Record a direction, unless that was done in this run.

        Raises:
            NotLinearError: It cannot be recorded.
        """
        if self.made:
            return
        seed, record, autograd = self._plain.seed(), self._record, self._plain.autograd
        apply = partial(self._plain.apply, seed)
        again = None if record.trace is None else _again(record.trace.source, apply, seed, autograd)
        if again is not None:
            self._values, self.made = again
            return
        record.forget()
        self.has_recorded = True
        record.trace, self._values, self.made = self._read(apply, seed) or self._watched(apply, seed)

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
            record.programs[size] = program_of(graph, len(record.trace.values), of_elements=of_elements)
        return record.programs[size]

    def _batch(self, size: int) -> Graph:
        """Record so many directions at once."""
        trace, seeds = self._record.trace, Seeds(self._plain.directions).batch(slice(0, size))
        assert trace is not None
        return batched(trace, self._values, seeds, computes=self._computes(trace.graph))

    def started(self, size: int, usage: Usage) -> Running:
        """Return a program for so many directions that has run its prologue for the values of now.

        Memory is kept for the next run where it was counted before, or nobody counts it.
        """
        record = self._record
        running = record.running.pop(size, None) if not usage.counts_again else None
        if running is not None:
            running.begin(self._values)
            return running
        program = self.program(size)
        seeds = Seeds(self._plain.directions)  # what lies behind the last direction are zeros
        device = self._plain.directions.leaves[0].device
        running = Running(program, self._values, lambda start: seeds.batch(slice(start, start + size)), device)
        if self._records.compiles:
            if size not in record.forms:
                record.forms[size] = choose_form(running)
            running.take(record.forms[size].bind)
        return running

    def put_back(self, running: Running, usage: Usage) -> None:
        """Keep a program's memory for the next run, if it is small."""
        running.rest()
        if not usage.counts_again and self._records.is_kept and running.program.n_bytes <= usage.room.kept_bytes:
            self._record.running[running.program.size] = running

    def form(self, size: int) -> Form | None:
        """Return how the step of so many directions runs; ``None`` if nothing was to be compiled."""
        return self._record.forms.get(size)

    def learn_weights(self, weights: torch.Tensor) -> None:
        """Take note of how rows are to be weighed, so that the next run knows it before they are made."""
        if self._records.is_kept:
            self._record.weights = weights

    def trust(self, size: int) -> None:
        """Take note that a block of so many directions was compared with one direction."""
        self._record.proven.add(size)

    def note_run(self, seconds: float, *, by_program: bool) -> None:
        """Take note of a whole run that recorded and compared nothing."""
        times_s = self._record.with_s if by_program else self._record.without_s
        times_s.append(seconds)

    def close(self) -> None:
        """Let go of the values."""
        self._values = ()

    def _computes(self, graph: Graph) -> bool:
        """Tell whether computing is quicker than running a graph on fakes."""
        return self._plain.evaluation_s < _FAKE_S * (_LEAST_NODES + len(graph.nodes))

    def _read(self, apply: Callable[[], Tensors], seed: Tensors) -> tuple[Trace, Tensors, Tensors] | None:
        """Record a direction whose values can be read from autograd's graph; ``None`` if they cannot."""
        autograd = self._plain.autograd
        found = None if autograd is None else saved_step(apply, seed, autograd)
        if found is None:
            return None
        graph, made, reading = found
        try:
            trace = trace_of(graph, seed, reading, computes=self._computes(graph))
        except NotLinearError:
            return None
        return trace, tuple(graph.constants.values()), made

    def _watched(self, apply: Callable[[], Tensors], seed: Tensors) -> tuple[Trace, Tensors, Tensors]:
        """Record any other direction."""
        step = recorded_step(apply, seed)
        return trace_of(step.graph, seed, step.script, computes=self._computes(step.graph)), step.values, step.made


def _again(
    source: Script | GraphReading, apply: Callable[[], Tensors], seed: Tensors, autograd: Autograd | None
) -> tuple[Tensors, Tensors] | None:
    """Run a direction that was recorded; return the values that it uses, and what it gives; ``None`` for another."""
    if isinstance(source, GraphReading):
        return source.again(apply, autograd)
    return followed_step(apply, seed, source)
