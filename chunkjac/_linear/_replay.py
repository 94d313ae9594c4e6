"""A step laid out in memory and turned into straight code.

What can write where it is told to writes into the arena, so its views are made once and not for
each chunk; what allocates by itself (convolutions, say) does so, and lets go after its last use.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import torch

from chunkjac._linear._arena import Arena, Life, lay_out
from chunkjac._linear._destinations import destination_call, works_in_place
from chunkjac._linear._graph import Graph, Node, run_node
from chunkjac._linear._one_hot import Gather, find_gathers
from chunkjac._linear._straight import straight_code


class Replay:
    """Run the part of a graph that depends on the seeds.

    Args:
        graph: Seeds are all that it is given, unless ``gathers`` says otherwise.
        gathers: The products that are rows of a factor; ``None`` finds them.

    Attributes:
        graph: What was given.
        uses: What the step needs besides the seeds.
    """

    def __init__(self, graph: Graph, gathers: Mapping[Node, Gather] | None = None) -> None:
        self.graph = graph
        self._step = [node for node in graph.nodes if node.varies]
        self._calls = {node: call for node in self._step if (call := destination_call(node)) is not None}
        stays = {*graph.given, *self._calls}  # memory that is at the same place in all chunks
        self._fixed = {*graph.given, *(n for n in self._step if n.root in stays or not n.root.varies)}
        self._gathers = find_gathers(graph) if gathers is None else gathers
        self._last = self._last_uses()
        self._owner = self._owners()
        self._arena: Arena[Node] = lay_out(self._lives())
        self._straight = straight_code(self._step, graph.outputs, self._calls, self._fixed, self._gathers)
        step = set(self._step) | set(graph.given)
        self.uses = {part for node in self._step for part in node.operands if part not in step}
        self.uses |= {node for node in graph.outputs if node not in step}

    @property
    def arena_bytes(self) -> int:
        """Return what intermediate results take, those aside that operations allocate."""
        return self._arena.n_bytes

    def bind(
        self, seeds: tuple[torch.Tensor, ...], values: Mapping[Node, Any]
    ) -> Callable[[int], tuple[torch.Tensor, ...]]:
        """Return what replays the step for the directions from a given one on.

        Args:
            seeds: Where the seeds will be.
            values: What the step uses of the prologue, and the constants.
        """
        env: dict[Node, Any] = {**values, **dict(zip(self.graph.given, seeds))}
        memory = torch.empty(self._arena.n_bytes, dtype=torch.uint8, device=seeds[0].device)
        scope: dict[str, Any] = {"__builtins__": builtins}
        for node in self._step:
            if node in self._calls:
                env[node] = self._buffer(memory, node)
            elif node in self._fixed:
                env[node] = run_node(node, env) if node.writes is None else env[node.writes]
        scope.update(self._straight.functions)
        scope.update({name: env[node] for node, name in self._straight.names.items() if node in env})
        return FunctionType(self._straight.code, scope)

    def _buffer(self, memory: torch.Tensor, node: Node) -> torch.Tensor:
        """Return a result's place in the arena."""
        layout = node.layout
        assert layout is not None
        offset = self._arena.offsets[self._owner[node]]
        flat = memory[offset : offset + layout.n_bytes].view(layout.dtype)
        return flat.as_strided(layout.shape, layout.strides)

    def _last_uses(self) -> dict[Node, int]:
        """Return when each memory is used last, through views as well."""
        last: dict[Node, int] = {}
        for i, node in enumerate(self._step):
            for operand in (*node.operands, node):
                last[operand.root] = i
        for node in self.graph.outputs:
            last[node.root] = len(self._step)
        return last

    def _owners(self) -> dict[Node, Node]:
        """Return whose place each result takes: that of an operand which dies as it is made, or its own."""
        owner: dict[Node, Node] = {}
        end = dict(self._last)
        for i, node in enumerate(self._step):
            if node not in self._calls:
                continue
            owner[node] = node
            if not works_in_place(node):
                continue
            for root in {operand.root for operand in node.operands}:
                seen = [operand.layout for operand in node.operands if operand.root is root]
                is_whole = all(layout == root.layout == node.layout for layout in seen)
                if root in owner and is_whole and self._last[root] == end[owner[root]] == i:
                    owner[node] = owner[root]
                    end[owner[root]] = self._last[node]
                    break
        return owner

    def _lives(self) -> dict[Node, Life]:
        """Return the size and the time of each place."""
        lives: dict[Node, Life] = {}
        for i, node in enumerate(self._step):
            if node in self._calls and node.layout is not None:
                place = self._owner[node]
                first = lives[place].first if place in lives else i
                size = max(node.layout.n_bytes, lives[place].n_bytes if place in lives else 0)
                last = max(self._last[node], lives[place].last if place in lives else i)
                lives[place] = Life(size, first, last)
        return lives
