"""A recorded step for many directions at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.func import vmap

from chunkjac._programs.graph.fakes import recorded_cheaply
from chunkjac._programs.graph.graph import Graph, Node, run_all
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.passes.memory_formats import LAYOUT_RULES
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.passes.one_hot_seeds import without_seeds
from chunkjac._programs.passes.pointwise_chains import replay
from chunkjac._programs.replay.program import Program
from chunkjac._programs.tracing import Trace
from chunkjac._tensors import Tensors


def batched(trace: Trace, values: Tensors, seeds: Tensors, *, computes: bool = True) -> Graph:
    """Record the step for seeds ``(k, *leaf.shape)``.

    Args:
        trace: One direction.
        values: What it uses beside the seed.
        seeds: The seeds.
        computes: Whether it is recorded on these values and seeds, or on fakes wherever that can be done.

    Returns:
        The whole program, which is given the values and the seeds.

    Raises:
        RuntimeError: An operation has no batching rule.
    """
    constants = trace.graph.constants

    def record(tensors: Tensors) -> Graph:
        known = dict(zip((*trace.values, *constants), tensors))
        traced = run_all(trace.before, known, trace.used)
        seeds = tensors[len(known) :]

        def step(*seed: torch.Tensor) -> Tensors:
            return tuple(replay(trace.graph, {**traced, **dict(zip(trace.seeds, seed))}, trace.graph.outputs))

        with _batching_rules_only():
            graph, _ = recorded(lambda: vmap(step)(*seeds), seeds, seeds, LAYOUT_RULES)
        return merged(_joined(trace, traced, graph))

    tensors = (*values, *constants.values(), *seeds)
    return recorded_cheaply(record, tensors, computes=computes)


def program_of(graph: Graph, n_values: int, *, of_elements: bool) -> Program:
    """Return a batched graph as a program: the passes are applied that go by its sizes.

    Args:
        graph: The whole.
        n_values: How many of the tensors that it is given are values; the others are seeds.
        of_elements: Whether seeds are one-hot, and need not be read where the direction's number says enough.
    """
    if of_elements:
        graph = without_seeds(graph, graph.given[n_values:])
    return Program(with_fast_products(graph).live(), n_values)


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
        (*trace.values, *graph.given),
        {**trace.graph.constants, **constants},
        tuple(stands_for.get(node, node) for node in graph.outputs),
    )


@contextmanager
def _batching_rules_only() -> Iterator[None]:
    """Refuse operations without a batching rule.

    torch would run one once for each seed: what is recorded would be right for as many as there are, and no others.
    """
    functorch: Any = torch._C._functorch
    had_fallback = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(had_fallback)
