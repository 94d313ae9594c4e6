"""A step laid out in memory and turned into straight code.

What can write where it is told to writes into the arena, so its views are made once and not for
each chunk; what allocates by itself (convolutions, say) does so, and lets go after its last use.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch

from chunkjac._linear._arena import Arena, Life, lay_out
from chunkjac._linear._destinations import destination_call, works_in_place
from chunkjac._linear._graph import Graph, Node, run_node
from chunkjac._linear._one_hot import Gather, find_gathers

_Names = dict[Node, str]


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
        self._fixed = set(graph.given) | {
            node for node in self._step if node.root in self._calls or not node.root.varies
        }
        self._fixed |= {node for node in self._step if node.root in graph.given}
        self._gathers = find_gathers(graph) if gathers is None else gathers
        self._last = self._last_uses()
        self._owner = self._owners()
        self._arena: Arena[Node] = lay_out(self._lives())
        self._source, self._names = self._code()
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
            elif node in self._fixed and node.writes is None:
                env[node] = run_node(node, env)
            elif node in self._fixed and node.writes is not None:
                env[node] = env[node.writes]
        for node, name in self._names.items():
            if node in env:
                scope[name] = env[node]
        scope.update(self._functions)
        return FunctionType(self._source, scope)

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

    def _code(self) -> tuple[CodeType, _Names]:
        """Write the step as Python."""
        names: _Names = {}
        self._functions: dict[str, Any] = {}

        def name(node: Node) -> str:
            return names.setdefault(node, f"v{len(names)}")

        def function(func: Any) -> str:
            key = f"f{len(self._functions)}"
            self._functions[key] = func
            return key

        def text(value: Any) -> str:
            if isinstance(value, Node):
                return name(value)
            if isinstance(value, (list, tuple)):
                inner = ", ".join(map(text, value))
                return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
            if value is None or isinstance(value, (bool, int, str)):
                return repr(value)
            return function(value)

        lines = []
        locals_: set[Node] = set()
        for i, node in enumerate(self._step):
            call = self._calls.get(node)
            arguments = [*map(text, node.args), *(f"{key}={text(value)}" for key, value in node.kwargs.items())]
            if node in self._gathers:
                gather = self._gathers[node]
                lines.append(f"{function(gather.into())}(start, {name(gather.matrix)}, out={name(node)})")
            elif call is not None:
                lines.append(f"{function(call)}({', '.join([*arguments, f'out={name(node)}'])})")
            elif node in self._fixed and node.writes is None:
                name(node)
            else:
                target = "" if node in self._fixed else f"{name(node)} = "
                lines.append(f"{target}{function(node.func)}({', '.join(arguments)})")
                if target:
                    locals_.add(node)
            dead = [other for other in locals_ if self._last.get(other.root, i) <= i and self._used_up(other, i)]
            if dead:
                lines.append(f"del {', '.join(map(name, dead))}")
                locals_ -= set(dead)
        results = ", ".join(name(node) for node in self.graph.outputs)
        body = "\n    ".join([*lines, f"return ({results},)"])
        scope: dict[str, Any] = {}
        exec(compile(f"def step(start):\n    {body}\n", "<linear program>", "exec"), scope)
        return scope["step"].__code__, names

    def _used_up(self, node: Node, i: int) -> bool:
        """Tell whether a node is not used after the i-th operation."""
        if not hasattr(self, "_node_last"):
            self._node_last: dict[Node, int] = {}
            for j, user in enumerate(self._step):
                for operand in user.operands:
                    self._node_last[operand] = j
            for output in self.graph.outputs:
                self._node_last[output] = len(self._step)
        return self._node_last.get(node, -1) <= i
