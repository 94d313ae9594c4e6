"""How a batch of perturbed copies is evaluated without a program, and how that is made one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from chunkjac._chunker import BatchLayout
from chunkjac._problem import Problem
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.likeness import Form, form_of
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.graph.step_recorder import StepRecorder
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.passes.first_layer import with_nudges
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.records import SeenByDifferences
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._tensors import Tensors


@dataclass(frozen=True, slots=True)
class RecordedEvaluation:
    """Hold a recorded evaluation of now.

    Attributes:
        graph: What depends on the copies; its constants are the values that it used.
        form: What it has in common with recordings of the same operations.
        ends: The base point, and the last one.
        made: What it gave.
    """

    graph: Graph
    form: Form
    ends: Tensors
    made: Tensors


@dataclass(frozen=True, slots=True)
class PlainEvaluation:
    """Hold how copies are evaluated without a program.

    Attributes:
        problem: The function and its inputs.
        call: Evaluates a batch, by the problem or by one like it.
        batch: Makes the copies of a chunk, always at the same place for chunks of one size.
        copies: Says how a batch for so many directions is made up.
        last: The point of its last row, if there is one.
        agrees: Tells whether values are the same but for rounding.
        seen: What is known of an evaluation.
        is_trusted: Whether an earlier run of the plan has gone the same way, and this one will too.
    """

    problem: Problem
    call: Callable[..., Tensors]
    batch: Callable[[slice], Tensors]
    copies: Callable[[int], BatchLayout]
    last: Tensors
    agrees: Callable[[Tensors, Tensors], bool]
    seen: SeenByDifferences

    @property
    def n_directions(self) -> int:
        """Return how many directions there are in all."""
        return sum(leaf.numel for leaf in self.problem.leaves)

    def recorded(self, chunk: slice) -> RecordedEvaluation:
        """Record the evaluation of a chunk: what depends on the copies, and the values that it uses of all else.

        Raises:
            NotLinearError: It cannot be recorded.
        """
        batch, ends = self.batch(chunk), (*self.problem.inputs, *self.last)
        graph, made = recorded(lambda: self.call(batch), (*ends, *batch), batch, {}, StepRecorder)
        return RecordedEvaluation(graph, form_of(graph), ends, made)

    def program(self, evaluation: RecordedEvaluation, size: int) -> Program:
        """Return what was recorded of so many directions as a program."""
        graph, n_inputs, n_last = evaluation.graph, len(self.problem.inputs), len(self.last)
        values = tuple(graph.constants)
        n_ends = n_inputs + n_last
        ends, points = graph.given[:n_ends], graph.given[n_ends:]
        graph = merged(replace(graph, given=(*ends, *values, *points), constants={}))
        graph = with_nudges(graph, ends[:n_inputs], ends[n_inputs:], points, self.copies(size))
        return Program(with_fast_products(graph).live(), n_ends + len(values))

    def running(self, program: Program, evaluation: RecordedEvaluation, size: int) -> Running:
        """Take memory for a program that evaluates so many directions at once."""
        return Running(
            program,
            (*evaluation.ends, *evaluation.graph.constants.values()),
            lambda start: self.batch(slice(start, start + size)),
            self.problem.device,
        )
