"""What changes nothing left out, and what is computed twice computed once.

Theorem: an operation that draws nothing and writes nothing gives the same for the same arguments, as
long as nobody writes to them or to its result.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch

from chunkjac._programs.graph.graph import Graph, Node, written_memory

aten = torch.ops.aten

_SAME = {aten.detach.default, aten.alias.default, aten.lift_fresh.default}
_SAME_IF_SHAPED_ALIKE = {aten.view.default, aten._unsafe_view.default, aten.expand.default}


def merged(graph: Graph) -> Graph:
    """Return a graph without repetitions and operations that give what they are given."""
    written = written_memory(graph.nodes)
    stands_for: dict[Node, Node] = {node: node for node in (*graph.given, *graph.constants)}
    known: dict[Hashable, Node] = {}
    kept: list[Node] = []
    for node in graph.nodes:
        new = node.with_operands(stands_for)
        if node.writes is None and node.root not in written:
            source = _source(new)
            if source is not None:
                stands_for[node] = source
                continue
            key = _key(new)
            if key is not None and key in known:
                stands_for[node] = known[key]
                continue
            if key is not None:
                known[key] = new
        stands_for[node] = new
        kept.append(new)
    return replace(graph, nodes=tuple(kept), outputs=tuple(stands_for[node] for node in graph.outputs))


def _source(node: Node) -> Node | None:
    """Return what a node is the same as."""
    source = node.args[0] if node.args else None
    if not isinstance(source, Node) or source.layout is None or node.layout is None:
        return None
    if node.func in _SAME or (node.func is aten.permute.default and [*node.args[1]] == [*range(len(node.args[1]))]):
        return source
    return source if node.func in _SAME_IF_SHAPED_ALIKE and node.layout == source.layout else None


def _key(node: Node) -> Hashable:
    """Return what is equal for nodes that give the same; ``None`` if that cannot be told."""
    key = node.func, _frozen(node.args), tuple((name, _frozen(value)) for name, value in sorted(node.kwargs.items()))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _frozen(value: Any) -> Any:
    """Return a value that can be hashed, with types, since 1 and 1.0 and True are equal."""
    if isinstance(value, (tuple, list)):
        return tuple(_frozen(part) for part in value)
    return value if isinstance(value, Node) else (type(value), value)
