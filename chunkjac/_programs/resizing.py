"""A step recorded for one number of seeds, for any other.

Theorem: in a batched step, each size, stride and offset is either the same for all numbers of seeds or
proportional to that number. So where the step is recorded for a prime number of seeds that divides no number of the
direction that it batches, the numbers that it divides are the proportional ones. (Dimensions are numbered
below the least of these primes.) What a program makes is compared with one direction for each size that is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from chunkjac._programs.graph.graph import Graph, Layout, Node

_PRIMES = (11, 13, 17, 19, 23, 29, 31, 37)


def telling_size(graph: Graph) -> int | None:
    """Return a number of seeds that tells which numbers of a batched direction depend on it; ``None`` if none does."""
    numbers = {number for node in (*graph.given, *graph.constants, *graph.nodes) for number in _numbers_of(node)}
    return next((prime for prime in _PRIMES if all(number % prime for number in numbers)), None)


def resized(graph: Graph, known_size: int, size: int) -> Graph:
    """Return a batched graph for another number of seeds.

    Args:
        graph: What was recorded.
        known_size: For how many seeds it was; a telling number.
        size: How many there are to be.
    """

    def scaled(value: Any) -> Any:
        if isinstance(value, Node):
            return stands_for[value]
        if isinstance(value, (tuple, list)):
            return type(value)(map(scaled, value))
        is_number = isinstance(value, int) and not isinstance(value, bool)
        return value // known_size * size if is_number and value % known_size == 0 else value

    def scaled_layout(layout: Layout | None) -> Layout | None:
        return layout and replace(layout, shape=scaled(layout.shape), strides=scaled(layout.strides))

    stands_for: dict[Node, Node] = {node: node for node in graph.constants}
    for node in (*graph.given, *graph.nodes):
        stands_for[node] = replace(
            node,
            args=scaled(node.args),
            kwargs={key: scaled(value) for key, value in node.kwargs.items()},
            layout=scaled_layout(node.layout),
            memory=None if node.memory is None else stands_for[node.memory].root,
            writes=None if node.writes is None else stands_for[node.writes],
        )
    nodes, given, outputs = (
        tuple(stands_for[node] for node in part) for part in (graph.nodes, graph.given, graph.outputs)
    )
    return replace(graph, nodes=nodes, given=given, outputs=outputs)


def _numbers_of(node: Node) -> Iterator[int]:
    """Yield the numbers in a node, zeros aside."""
    layout = (*node.layout.shape, *node.layout.strides) if node.layout is not None else ()
    return (number for number in _numbers_among((*layout, *node.args, *node.kwargs.values())) if number)


def _numbers_among(values: Any) -> Iterator[int]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _numbers_among(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield value
