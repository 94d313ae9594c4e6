"""How a batch of perturbed copies is evaluated without a program, and how that is made one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from chunkjac._chunker import BatchLayout
from chunkjac._problem import Problem
from chunkjac._programs.graph.graph import Layout, Node
from chunkjac._programs.graph.script import Script
from chunkjac._programs.graph.step_recorder import Step, followed_step, recorded_step
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.passes.first_layer import with_nudges
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.records import SeenByDifferences
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
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

    @property
    def ends(self) -> Tensors:
        """Return the base point, and the last one."""
        return (*self.problem.inputs, *self.last)

    def recorded(self, chunk: slice) -> Step:
        """Record the evaluation of a chunk: what depends on the copies, and the values that it uses of all else.

        Raises:
            NotLinearError: It cannot be recorded.
        """
        batch = self.batch(chunk)
        return recorded_step(lambda: self.call(batch), batch)

    def followed(self, chunk: slice, script: Script) -> tuple[Tensors, Tensors] | None:
        """Evaluate a chunk; return the values that it uses, and what it gives; ``None`` where it is another script."""
        batch = self.batch(chunk)
        return followed_step(lambda: self.call(batch), batch, script)

    def program(self, step: Step, size: int) -> Program:
        """Return what was recorded of so many directions as a program."""
        graph, n_inputs = step.graph, len(self.problem.inputs)
        ends = tuple(Node(None, layout=Layout.of(tensor)) for tensor in self.ends)
        whole = merged(replace(graph, given=(*ends, *graph.constants, *graph.given), constants={}))
        whole = with_nudges(whole, ends[:n_inputs], ends[n_inputs:], graph.given, self.copies(size))
        return Program(with_fast_products(whole).live(), len(ends) + len(graph.constants))

    def running(self, program: Program, values: Tensors, size: int) -> Running:
        """Take memory for a program that evaluates so many directions at once."""
        seeds = lambda start: self.batch(slice(start, start + size))  # noqa: E731
        return Running(program, (*self.ends, *values), seeds, self.problem.device)
