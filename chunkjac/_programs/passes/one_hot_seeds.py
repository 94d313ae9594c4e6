"""The first operation on one-hot seeds, found in a batched step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch

from chunkjac._programs.graph.graph import Graph, Node, live_nodes
from chunkjac._programs.passes.gathers import Gather, Patch, Seeded

aten = torch.ops.aten

# These leave the order of elements as it is, where both sides are contiguous.
_IN_ORDER = {
    aten.view.default,
    aten._unsafe_view.default,
    aten.unsqueeze.default,
    aten.alias.default,
    aten.detach.default,
}
_IN_ORDER |= {aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims, aten.expand.default}


def without_seeds(graph: Graph, seeds: Sequence[Node]) -> Graph:
    """Return a graph in which operations that see seeds only go by the numbers of the directions."""
    firsts = first_directions(seeds)
    in_order = in_order_of(graph, seeds)
    same = set(in_order)

    def exchange(node: Node, new: Node) -> list[Node]:
        if node.func is aten.clone.default and node.args[0] in same:
            same.add(node)
        elif node.func in _FOUND and node.args[0] in same and not node.args[1].varies:
            seeded = _FOUND[node.func](node, firsts, node.args[0] in in_order)
            if seeded is not None:
                return [replace(new, func=seeded, args=new.args[1:2])]
        return [new]

    return graph.rewritten(exchange)


def first_directions(leaves: Sequence[Node]) -> dict[Node, int]:
    """Return the number of the first direction that is in each of some leaves, ``(rows, *leaf.shape)``."""
    numels = [leaf.tensor_layout.shape[1:].numel() for leaf in leaves]
    return dict(zip(leaves, accumulate(numels, initial=0)))


def in_order_of(graph: Graph, sources: Sequence[Node]) -> set[Node]:
    """Return some nodes, and their views that have the same elements in the same order."""
    found = set(sources)
    for node in graph.nodes:
        if node.func in _IN_ORDER and node.args[0] in found and _is_same(node, node.args[0]):
            found.add(node)
    return found


def seeded_ahead(graph: Graph) -> tuple[list[Node], Graph]:
    """Return the operations that go by numbers, and the rest of a graph: their results are given to it."""
    seeded = [node for node in graph.nodes if isinstance(node.func, Seeded)]
    rest = live_nodes([node for node in graph.nodes if node not in seeded], graph.outputs)
    return seeded, replace(graph, nodes=rest, given=(*graph.given, *seeded))


def _gather(node: Node, firsts: Mapping[Node, int], is_in_order: bool) -> Seeded | None:
    """Return how to find a product's rows, if the seeds divide evenly among them."""
    seeds = node.args[0]
    if not is_in_order:
        return None
    root, layout = seeds.root, seeds.layout
    k, numel = root.layout.shape[0], root.layout.shape[1:].numel()
    n_columns = layout.shape[1]
    if not n_columns or numel % n_columns or layout.shape[0] != k * (numel // n_columns):
        return None
    return Gather(firsts[root], numel // n_columns, n_columns)


def _patch(node: Node, firsts: Mapping[Node, int], is_in_order: bool) -> Seeded | None:
    """Return where a transposed convolution puts its filters, if each seed is one image."""
    seeds, _, bias, stride, padding, dilation, transposed, _, groups = node.args
    shape = seeds.layout.shape
    is_usual = transposed and groups == 1 and bias is None and len(shape) == 4 and max(dilation) == 1
    root = seeds.root if is_in_order else seeds.args[0].root
    if not is_usual or shape[0] != root.layout.shape[0] or root not in firsts:
        return None
    return Patch(firsts[root], tuple(shape[1:]), tuple(stride), tuple(padding))


def _is_same(node: Node, source: Node) -> bool:
    """Tell whether two nodes have the same elements in the same order."""
    a, b = node.layout, source.layout
    return a is not None and b is not None and a.shape.numel() == b.shape.numel() and a.is_contiguous


_FOUND: dict[object, Callable[[Node, Mapping[Node, int], bool], Seeded | None]] = {
    aten.mm.default: _gather,
    aten.convolution.default: _patch,
}
