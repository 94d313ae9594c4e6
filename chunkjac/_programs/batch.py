"""A recorded direction for many seeds at once: batched by ``vmap``, and recorded again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.func import vmap

from chunkjac._programs.graph.graph import Graph, Node
from chunkjac._programs.graph.recorder import NotLinearError, recorded
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.passes.memory_formats import LAYOUT_RULES
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.passes.one_hot_seeds import without_seeds
from chunkjac._programs.passes.pointwise_chains import replay
from chunkjac._programs.replay.program import Program
from chunkjac._programs.tracing import Trace

# An operation without a batching rule runs once for each seed; more operations than this are a loop.
_LOOP = 6


def batched(
    trace: Trace, traced: Mapping[Node, Any], seeds: tuple[torch.Tensor, ...]
) -> tuple[Graph, tuple[torch.Tensor, ...]]:
    """Record the step for seeds ``(k, *leaf.shape)``.

    Args:
        trace: One direction.
        traced: What its prologue makes.
        seeds: The seeds.

    Returns:
        The whole program, which is given the trace's inputs and the seeds; and what it made of these seeds.

    Raises:
        NotLinearError: An operation has no batching rule.
    """

    def step(*seed: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = {**traced, **dict(zip(trace.seeds, seed))}
        return tuple(replay(trace.graph, values, trace.graph.outputs))

    graph, made = recorded(lambda: vmap(step)(*seeds), seeds, seeds, LAYOUT_RULES)
    if len(graph.nodes) > _LOOP * len(trace.graph.nodes) + 100:
        raise NotLinearError("an operation has no batching rule")
    return merged(_joined(trace, traced, graph)), made


def program_of(graph: Graph, n_inputs: int, *, of_elements: bool) -> Program:
    """Return a batched graph as a program: the passes are applied that go by its sizes.

    Args:
        graph: The whole.
        n_inputs: How many of the tensors that it is given are inputs.
        of_elements: Whether seeds are one-hot, and need not be read where the direction's number says enough.
    """
    if of_elements:
        graph = without_seeds(graph, graph.given[n_inputs:])
    return Program(with_fast_products(graph).live(), n_inputs)


def _joined(trace: Trace, traced: Mapping[Node, Any], graph: Graph) -> Graph:
    """Return a recorded step behind the prologue whose values it took for constants."""
    node_of = {id(value): node for node, value in traced.items() if isinstance(value, torch.Tensor)}
    stands_for = {node: node_of[id(value)] for node, value in graph.constants.items() if id(value) in node_of}
    constants = {node: value for node, value in graph.constants.items() if node not in stands_for}
    nodes = []
    for node in graph.nodes:
        stands_for[node] = node.with_operands(stands_for)
        nodes.append(stands_for[node])
    return Graph(
        (*trace.before, *nodes),
        (*trace.inputs, *graph.given),
        {**trace.graph.constants, **constants},
        tuple(stands_for.get(node, node) for node in graph.outputs),
    )
