"""How a batch of perturbed copies is evaluated without a program, and how that is made one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chunkjac._chunker import BatchLayout
from chunkjac._problem import Problem
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.passes.first_layer import with_nudges
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.records import SeenByDifferences
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._programs.tracing import given_tensors, with_own_arguments
from chunkjac._tensors import Tensors


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
    is_trusted: bool

    @property
    def n_directions(self) -> int:
        """Return how many directions there are in all."""
        return sum(leaf.numel for leaf in self.problem.leaves)

    def recorded(self, chunk: slice) -> tuple[Program, Tensors]:
        """Record the evaluation of a chunk; return it as a program, and what it gave.

        Raises:
            NotLinearError: It cannot be recorded.
        """
        batch = self.batch(chunk)
        problem = with_own_arguments(self.problem)
        given = self._given(problem)
        graph, made = recorded(lambda: self.call(batch, problem), (*given, *batch), batch, {})
        return self._program(merged(graph), len(given), self.copies(chunk.stop - chunk.start)), made

    def running(self, program: Program, size: int) -> Running:
        """Take memory for a program that evaluates so many directions at once."""
        return Running(
            program,
            self._given(self.problem),
            lambda start: self.batch(slice(start, start + size)),
            owns_inputs=False,
            is_linear=False,
        )

    def _program(self, graph: Graph, n_given: int, copies: BatchLayout) -> Program:
        """Return what was recorded as a program."""
        n_leaves = len(self.problem.inputs)
        inputs, lasts, points = graph.given[:n_leaves], graph.given[n_leaves:n_given], graph.given[n_given:]
        graph = with_nudges(graph, inputs, lasts[: len(self.last)], points, copies)
        return Program(with_fast_products(graph).live(), n_given)

    def _given(self, problem: Problem) -> Tensors:
        """Return what a program is given beside the copies: the base point, the last one, other arguments."""
        others = given_tensors(problem)[0][len(problem.inputs) :]
        return (*problem.inputs, *self.last, *others)
