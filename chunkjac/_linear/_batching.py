"""A recorded direction for many seeds at once: batched by ``vmap``, and recorded again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from chunkjac._linear._diagonal import replay
from chunkjac._linear._graph import Graph, Node, live_nodes, run_all
from chunkjac._linear._layouts import LAYOUT_RULES
from chunkjac._linear._merging import merged
from chunkjac._linear._products import with_fast_products
from chunkjac._linear._recorder import NotLinearError, recorded
from chunkjac._linear._replay import Replay
from chunkjac._linear._tracing import Trace

# An operation without a batching rule runs once for each seed; more operations than this are a loop.
_LOOP = 6


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold a step for so many seeds.

    Attributes:
        n_seeds: How many.
        prologue: What is to be computed once for new inputs, beside the trace's own prologue.
        sources: For tensors that it uses: the node of the trace whose value each is.
        constants: Tensors that it uses besides.
        replay: What runs for each chunk.
    """

    n_seeds: int
    prologue: tuple[Node, ...]
    sources: Mapping[Node, Node]
    constants: Mapping[Node, torch.Tensor]
    replay: Replay

    def computed(self, values: Mapping[Node, Any]) -> list[torch.Tensor]:
        """Return those of the values that were computed: neither parameters nor views of them."""
        given = {node for node, source in self.sources.items() if source.root.func is None} | set(self.constants)
        found = [value for node, value in values.items() if node.root not in given]
        return [value for value in found if isinstance(value, torch.Tensor)]

    def values(self, traced: Mapping[Node, Any]) -> dict[Node, Any]:
        """Return what the step uses, from what the trace's prologue made."""
        env: dict[Node, Any] = {**self.constants, **{node: traced[source] for node, source in self.sources.items()}}
        return run_all(self.prologue, env, self.replay.uses)


def batch(
    trace: Trace, traced: Mapping[Node, Any], seeds: tuple[torch.Tensor, ...]
) -> tuple[Batch, tuple[torch.Tensor, ...]]:
    """Record the step for seeds ``(k, *leaf.shape)``; return it, and what it gave for them.

    Raises:
        NotLinearError: An operation has no batching rule.
    """

    def step(*seed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = {**traced, **dict(zip(trace.seeds, seed))}
        return tuple(replay(trace.graph, values, trace.graph.outputs))

    graph, made = recorded(lambda: torch.func.vmap(step)(*seeds), seeds, seeds, LAYOUT_RULES)
    if len(graph.nodes) > _LOOP * len(trace.graph.nodes) + 100:
        raise NotLinearError("an operation has no batching rule")
    graph = with_fast_products(merged(graph))
    live = live_nodes(graph.nodes, graph.outputs)
    node_of = {id(value): node for node, value in traced.items() if isinstance(value, torch.Tensor)}
    used = {operand for node in live for operand in node.operands} | set(graph.outputs)
    sources = {node: node_of[id(t)] for node, t in graph.constants.items() if node in used and id(t) in node_of}
    constants = {node: t for node, t in graph.constants.items() if node in used and id(t) not in node_of}
    n_seeds = len(seeds[0])
    prologue = tuple(node for node in live if not node.varies)
    step_graph = Graph(tuple(node for node in live if node.varies), graph.given, {}, graph.outputs)
    return Batch(n_seeds, prologue, sources, constants, Replay(step_graph)), made
