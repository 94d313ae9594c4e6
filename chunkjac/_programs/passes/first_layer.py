"""The first layer of perturbed copies: the base point's, and what one element adds.

Theorem: ``(x + d e_c) W = x W + d W_c``, where ``W_c`` is row c of W. So a copy in which one element is moved takes
as many multiplications as the layer has outputs, not inputs times outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from chunkjac._chunker import BatchLayout
from chunkjac._programs.graph.graph import Graph, Node
from chunkjac._programs.passes.fast_products import is_product
from chunkjac._programs.passes.gathers import Seeded, lines
from chunkjac._programs.passes.one_hot_seeds import first_directions, in_order_of

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class Nudged(Seeded):
    """Multiply perturbed copies by a matrix.

    Attributes:
        copies: How the batch is made up.
        first: The number of the first direction that moves this input.
    """

    copies: BatchLayout
    first: int

    def __call__(  # type: ignore[override]
        self, start: int, points: torch.Tensor, x: torch.Tensor, base: torch.Tensor, matrix: torch.Tensor, *, out: Any
    ) -> None:
        """Write the product.

        Args:
            start: The first direction.
            points: The copies, ``(rows * lines, columns)``.
            x: The base point, ``(lines, columns)``.
            base: The products of the base point and, where there is one, of the last, ``(lines or more, width)``.
            matrix: ``(columns, width)``.
            out: Where the product goes, ``(rows * lines, width)``.
        """
        k, n_points, (n_lines, n_columns) = self.copies.n_directions, self.copies.n_points, x.shape
        made, moved = out.view(-1, n_lines, out.shape[1]), points.view(-1, n_lines, n_columns)
        begin = start - self.first
        low, high = max(begin, 0), min(begin + k, n_lines * n_columns)
        n_moved = k * n_points
        if n_lines > 1 or (low, high) != (begin, begin + k):
            made[:n_moved] = base[:n_lines]
        if self.copies.with_base:
            made[n_moved] = base[:n_lines]
        if self.copies.with_last:
            made[-1] = base[n_lines:]
        for directions, line, columns in lines(begin, low, high, n_columns):
            for i in range(n_points):
                rows = slice(i * k + directions.start, i * k + directions.stop)
                step = moved[rows, line, columns].diagonal() - x[line, columns]
                torch.addcmul(base[line], step[:, None], matrix[columns], out=made[rows, line])


def with_nudges(
    graph: Graph, inputs: Sequence[Node], lasts: Sequence[Node], points: Sequence[Node], copies: BatchLayout
) -> Graph:
    """Return a graph in which products of copies with constant matrices are made of those of the base point.

    Args:
        graph: The evaluation of a batch.
        inputs: The base point, a node for each leaf.
        lasts: The last point of the batch, if there is one.
        points: The copies.
        copies: How they are made up.
    """
    firsts, found = first_directions(points), in_order_of(graph, points)

    def exchange(node: Node, new: Node) -> list[Node]:
        source = node.args[-2] if is_product(node) else None
        if source not in found or node.layout is None or not node.layout.is_contiguous:
            return [new]
        number = list(points).index(source.root)
        ends = [inputs[number], *(lasts[number : number + 1])]
        return _nudged(new, ends, copies, firsts[source.root])

    return graph.rewritten(exchange)


def _nudged(product: Node, ends: Sequence[Node], copies: BatchLayout, first: int) -> list[Node]:
    """Return the products of the base point and of the last one, and what makes that of all copies."""
    *others, factor, matrix = product.args
    n_columns, width = matrix.layout.shape
    n_lines = factor.layout.shape[0] // copies.n_rows
    flat = [_node(aten.view.default, (end, [n_lines, n_columns]), end, (n_lines, n_columns)) for end in ends]
    n_ends = n_lines * len(flat)
    joined = _node(aten.cat.default, (flat,), flat[0], (n_ends, n_columns), own=True)
    base = _node(product.func, (*others, joined, matrix), factor, (n_ends, width), own=True)
    moved = replace(product, func=Nudged(copies, first), args=(factor, flat[0], base, matrix))
    return [*flat, joined, base, moved]


def _node(func: Any, args: tuple[Any, ...], like: Node, shape: tuple[int, int], *, own: bool = False) -> Node:
    """Return an operation on constants whose result is contiguous."""
    return Node(func, args, {}, like.tensor_layout.reshaped(shape), memory=None if own else like.root)
