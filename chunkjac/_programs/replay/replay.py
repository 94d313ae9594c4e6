"""Operations laid out in memory and turned into straight code.

What can write where it is told to writes into the arena, so its views are made once and not each time; what
allocates by itself (convolutions, say) does so, and lets go after its last use. What is made of nothing (a
causal mask, say) is made once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch

from chunkjac._programs.graph.graph import Graph, Node, run_node, written_memory
from chunkjac._programs.graph.lives import last_uses, peak_bytes
from chunkjac._programs.replay.arena import Arena, Life, lay_out
from chunkjac._programs.replay.code import straight_code
from chunkjac._programs.replay.destinations import destination_call, works_in_place
from chunkjac._tensors import Tensors


class Replay:
    """Run the operations of a graph.

    Args:
        graph: What it is given stays at its place.

    Attributes:
        graph: What was given.
        uses: What it needs that it does not make.
        loose_bytes: The most that results take at once that operations allocate by themselves.
        open: The outputs that can be written elsewhere in a run, by number: and the result that each is.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._nodes = graph.nodes
        inside = set(self._nodes)
        self.uses = {part for node in self._nodes for part in node.operands if part not in inside}
        self.uses |= {node for node in graph.outputs if node not in inside}
        self._calls = {node: call for node in self._nodes if (call := destination_call(node)) is not None}
        free = _made_of_nothing(self._nodes)
        stays = {*self._calls, *free}
        self._fixed = {*free, *(node for node in self._nodes if node.root in stays or node.root not in inside)}
        self._calls = {node: call for node, call in self._calls.items() if node not in free}
        self._last = last_uses(self._nodes, graph.outputs)
        self._owner = self._owners()
        self._arena: Arena[Node] = lay_out(self._lives())
        self.loose_bytes = peak_bytes(self._nodes, (*graph.outputs, *free), self._calls)
        self.open = self._open_outputs()
        open_to = tuple(dict.fromkeys(self.open.values()))
        self._straight = straight_code(self._nodes, graph.outputs, self._calls, self._fixed, open_to)
        self._open_to = open_to

    @property
    def n_bytes(self) -> int:
        """Return what results take, those aside that operations allocate."""
        return self._arena.n_bytes

    @property
    def most_bytes(self) -> int:
        """Return what all results take at most at once."""
        return self.n_bytes + self.loose_bytes

    def bind(self, values: Mapping[Node, Any], device: torch.device) -> Bound:
        """Take memory for what is to be run; return what runs it.

        Args:
            values: What it uses and is given.
            device: Where memory is taken.
        """
        env: dict[Node, Any] = dict(values)
        arena = torch.empty(self._arena.n_bytes, dtype=torch.uint8, device=device)
        for node in self._nodes:
            if node in self._calls:
                env[node] = self._buffer(arena, node)
            elif node in self._fixed:
                env[node] = run_node(node, env) if node.writes is None else env[node.writes]
        names = {node: name for node, name in self._straight.names.items() if node in values}
        own = tuple(env[node] for node in self._open_to)
        return Bound(self._straight.bound(env), own, names)

    def _buffer(self, memory: torch.Tensor, node: Node) -> torch.Tensor:
        """Return a result's place in the arena."""
        offset, layout = self._arena.offsets[self._owner[node]], node.tensor_layout
        flat = memory[offset : offset + layout.n_bytes].view(layout.dtype)
        return flat.as_strided(layout.shape, layout.strides)

    def _open_outputs(self) -> dict[int, Node]:
        """Return the outputs that are the whole of a result which nothing else uses, all of it in order."""
        used = {
            operand.root
            for node in self._nodes
            for operand in node.operands
            if node.root is not operand.root or node.writes is not None
        }
        found = {}
        for number, output in enumerate(self.graph.outputs):
            root = output.root
            times = [other.root for other in self.graph.outputs].count(root)
            if root in self._calls and self._owner.get(root) is root and root not in used and times == 1:
                layouts = [layout for layout in (root.layout, output.layout) if layout is not None]
                if all(layout.is_contiguous for layout in layouts) and len({la.shape.numel() for la in layouts}) == 1:
                    found[number] = root
        return found

    def _owners(self) -> dict[Node, Node]:
        """Return whose place each result takes: that of an operand which dies as it is made, or its own."""
        owner: dict[Node, Node] = {}
        end = dict(self._last)
        for i, node in enumerate(self._nodes):
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
        """Return the size and the time of each place in the arena."""
        lives: dict[Node, Life] = {}
        for i, node in enumerate(self._nodes):
            if node in self._calls and node.layout is not None:
                place = self._owner[node]
                so_far = lives.get(place, Life(0, i, i))
                n_bytes, last = max(node.layout.n_bytes, so_far.n_bytes), max(self._last[node], so_far.last)
                lives[place] = Life(n_bytes, so_far.first, last)
        return lives


@dataclass(frozen=True, slots=True)
class Bound:
    """Hold memory, and the code that runs in it.

    Attributes:
        code: Runs the operations; its arguments are the first direction of a chunk, where there are any, and the
            places of those outputs that are open.
        own: Places for these.
        names: What the code calls the values that it was given.
    """

    code: FunctionType
    own: Tensors
    names: Mapping[Node, str]

    def run(self, start: int = 0) -> Tensors:
        """Run the operations; return the outputs, which hold until the next run."""
        made: Tensors = self.code(start, *self.own)
        return made

    def use(self, values: Mapping[Node, Any]) -> None:
        """Run on other values from now on."""
        self.code.__globals__.update({name: values[node] for node, name in self.names.items() if node in values})


def _made_of_nothing(nodes: Sequence[Node]) -> set[Node]:
    """Return the operations that depend on no tensor, and whose results nobody writes to."""
    written = written_memory(nodes)
    free: set[Node] = set()
    for node in nodes:
        if node.writes is None and node.root not in written and all(operand in free for operand in node.operands):
            free.add(node)
    return free
