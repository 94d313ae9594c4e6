"""A linear program: a prologue for each input, and a step for each chunk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from chunkjac._programs.graph.graph import Graph, Node
from chunkjac._programs.replay.preparation import Preparation
from chunkjac._programs.replay.replay import Replay
from chunkjac._tensors import Tensors

RunStep = Callable[[int], Tensors]
Feed = Callable[[int], Tensors]
Bind = Callable[[Tensors, Mapping[Node, Any]], RunStep]


class Program:
    """Hold what computes the blocks of so many directions.

    Args:
        graph: The whole: what does not depend on the seeds is the prologue, all else the step.
        n_values: How many of the tensors that it is given are values; the others are seeds.

    Attributes:
        size: How many directions it takes at once.
        values: The nodes of the values.
        seeds: Those of its seeds.
        prologue: What runs once.
        step: What runs for each chunk.
        reads_seeds: Whether the step reads any seed; gathers do not.
    """

    def __init__(self, graph: Graph, n_values: int) -> None:
        self.values, self.seeds = graph.given[:n_values], graph.given[n_values:]
        (self.size,) = {seed.tensor_layout.shape[0] for seed in self.seeds}
        steps = tuple(node for node in graph.nodes if node.varies)
        before = tuple(node for node in graph.nodes if not node.varies)
        self.step = Replay(replace(graph, nodes=steps, given=self.seeds))
        self.prologue = Preparation(before, self.values, graph.constants, self.step.uses - {*self.seeds})
        self.reads_seeds = any(seed in self.step.uses for seed in self.seeds)

    @property
    def n_bytes(self) -> int:
        """Return what it takes in memory, beside values, seeds, and what operations allocate."""
        return self.step.n_bytes + self.prologue.n_bytes

    @property
    def most_bytes(self) -> int:
        """Return what all that it makes takes at most at once."""
        return max(self.prologue.most_bytes, self.prologue.n_bytes + self.step.most_bytes)
