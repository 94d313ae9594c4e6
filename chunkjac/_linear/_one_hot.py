"""The first product with one-hot seeds, as rows of its other factor.

Theorem: row i of ``E W`` is row c of ``W`` where row i of ``E`` is one at c, and zero where that is
zero. Seeds have a single one each, so a product with a matrix of ``r`` rows and ``c`` columns for each seed
takes as many steps as the result has elements, not ``c`` times as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from chunkjac._linear._graph import Graph, Node, live_nodes

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


@dataclass(frozen=True, slots=True)
class Gather:
    """Take the rows of a product, ``(columns, width)`` being its other factor, for the directions from ``start`` on.

    Attributes:
        first: The number of the first direction that is in this leaf.
        n_rows: How many rows of the product a seed has.
        n_columns: How many elements of a seed are in a row.
    """

    first: int
    n_rows: int
    n_columns: int

    def __call__(self, start: int, matrix: torch.Tensor, *, out: torch.Tensor) -> None:
        """Write the product for as many directions as ``out`` has room for."""
        k = out.shape[0] // self.n_rows
        begin, end = start - self.first, start - self.first + k
        low, high = max(begin, 0), min(end, self.n_rows * self.n_columns)
        if self.n_rows > 1 or (low, high) != (begin, end):
            out.zero_()
        while low < high:
            row, column = divmod(low, self.n_columns)
            stop = min(high, (row + 1) * self.n_columns)
            rows = out.view(k, self.n_rows, -1)[low - begin : stop - begin, row]
            rows.copy_(matrix[column : column + stop - low])
            low = stop


def with_gathers(graph: Graph, seeds: Sequence[Node]) -> Graph:
    """Return a graph in which the products that only see seeds are gathers."""
    firsts: dict[Node, int] = {}
    n_before = 0
    for seed in seeds:
        assert seed.layout is not None
        firsts[seed] = n_before
        n_before += seed.layout.shape[1:].numel()
    in_order = set(seeds)
    stands_for: dict[Node, Node] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        new = node.with_operands(stands_for)
        if node.func in _IN_ORDER and node.args[0] in in_order and _is_same(node, node.args[0]):
            in_order.add(node)
        elif node.func is aten.mm.default and node.args[0] in in_order and not node.args[1].varies:
            gather = _gather(node, firsts)
            if gather is not None:
                new = replace(new, func=gather, args=new.args[1:])
        stands_for[node] = new
        nodes.append(new)
    return replace(graph, nodes=tuple(nodes), outputs=tuple(stands_for.get(node, node) for node in graph.outputs))


def gathers_ahead(graph: Graph) -> tuple[list[Node], Graph]:
    """Return the gathers, and the rest of a graph: their results are given to it."""
    gathers = [node for node in graph.nodes if isinstance(node.func, Gather)]
    rest = live_nodes([node for node in graph.nodes if node not in gathers], graph.outputs)
    return gathers, replace(graph, nodes=rest, given=(*graph.given, *gathers))


def _gather(node: Node, firsts: dict[Node, int]) -> Gather | None:
    """Return how to find a product's rows, if the seeds divide evenly among them."""
    seeds = node.args[0]
    root, layout = seeds.root, seeds.layout
    k, numel = root.layout.shape[0], root.layout.shape[1:].numel()
    n_columns = layout.shape[1]
    if not n_columns or numel % n_columns or layout.shape[0] != k * (numel // n_columns):
        return None
    return Gather(firsts[root], numel // n_columns, n_columns)


def _is_same(node: Node, source: Node) -> bool:
    """Tell whether two nodes have the same elements in the same order."""
    a, b = node.layout, source.layout
    return a is not None and b is not None and a.shape.numel() == b.shape.numel() and _is_contiguous(a.shape, a.strides)


def _is_contiguous(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Tell whether elements lie in memory in their order."""
    expected = 1
    for size, stride in zip(reversed(shape), reversed(strides)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True
