"""When a result is used last, and what lives at once."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from chunkjac._programs.graph.graph import Node


def last_uses(nodes: Sequence[Node], kept: Iterable[Node] = ()) -> dict[Node, int]:
    """Return when each memory is used last, through views as well.

    Args:
        nodes: The operations.
        kept: Results that are there until the end.
    """
    last = {operand.root: i for i, node in enumerate(nodes) for operand in (*node.operands, node)}
    last.update({node.root: len(nodes) for node in kept})
    return last


def peak_bytes(nodes: Sequence[Node], kept: Iterable[Node] = (), apart: Container[Node] = ()) -> int:
    """Return the most that results of operations hold at once, each until its last use.

    Args:
        nodes: The operations.
        kept: Results that are there until the end.
        apart: Those that do not count.
    """
    last = last_uses(nodes, kept)
    dead: dict[int, int] = {}
    live_bytes = most_bytes = 0
    for i, node in enumerate(nodes):
        if node.memory is None and node.layout is not None and node not in apart:
            live_bytes += node.layout.n_bytes
            dead[last[node]] = dead.get(last[node], 0) + node.layout.n_bytes
        most_bytes = max(most_bytes, live_bytes)
        live_bytes -= dead.pop(i, 0)
    return most_bytes
