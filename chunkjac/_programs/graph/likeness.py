"""Whether two recordings are of the same operations, whatever the values are that they use."""

from __future__ import annotations

from typing import Any

from chunkjac._programs.graph.graph import Graph, Node

# What is equal for recordings of the same operations, on tensors of the same layouts, with the same numbers.
Form = tuple[Any, ...]


def form_of(graph: Graph) -> Form:
    """Return what two graphs have in common only if each is right for the values of the other."""
    number_of = {node: i for i, node in enumerate((*graph.given, *graph.constants, *graph.nodes))}

    def told(value: Any) -> Any:
        if isinstance(value, Node):
            return number_of[value]
        if isinstance(value, (tuple, list)):
            return tuple(map(told, value))
        # 1, 1.0 and True are equal, as are 0.0 and -0.0; NaN is not equal to itself.
        return (type(value), repr(value)) if isinstance(value, (bool, float, complex)) else (type(value), value)

    def of(node: Node) -> Form:
        owner, target = (None if other is None else number_of[other] for other in (node.memory, node.writes))
        kwargs = tuple((name, told(value)) for name, value in node.kwargs.items())
        return node.func, told(node.args), kwargs, node.layout, node.varies, owner, target

    return (*map(of, number_of), len(graph.given), len(graph.constants), told(graph.outputs))
