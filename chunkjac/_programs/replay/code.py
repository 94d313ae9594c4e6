"""Operations as straight Python code, one line for each.

Nothing is in it that could be done once for all runs.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from chunkjac._programs.graph.graph import Node
from chunkjac._programs.passes.gathers import Seeded


@dataclass(frozen=True, slots=True)
class Straight:
    """Hold code.

    Attributes:
        code: The body of ``run(start, ...)``.
        names: What it calls the tensors that stay where they are.
        functions: What it calls the operations, and numbers that Python cannot write down.
    """

    code: CodeType
    names: Mapping[Node, str]
    functions: Mapping[str, Any]

    def bound(self, known: Mapping[Node, Any]) -> FunctionType:
        """Return what runs on these tensors, as far as they stay where they are."""
        scope: dict[str, Any] = {"__builtins__": builtins, **self.functions}
        scope.update({name: known[node] for node, name in self.names.items() if node in known})
        return FunctionType(self.code, scope)


def straight_code(
    nodes: Sequence[Node],
    outputs: Sequence[Node],
    calls: Mapping[Node, Callable[..., Any]],
    fixed: set[Node],
    open_to: Sequence[Node] = (),
) -> Straight:
    """Write operations as Python.

    Args:
        nodes: The operations.
        outputs: What it returns.
        calls: What writes into a place that is known, for the operations that can.
        fixed: The nodes whose tensors stay where they are; others are local variables, deleted after their last use.
        open_to: Results whose places are given to each run.
    """
    words = _Words()
    parameters = ", ".join(["start", *map(words.name, open_to)])
    last = {operand: i for i, node in enumerate(nodes) for operand in (node, *node.operands)}
    last.update(dict.fromkeys(outputs, len(nodes)))
    dying: dict[int, list[Node]] = {}
    for node in nodes:
        if node not in fixed:
            dying.setdefault(last[node], []).append(node)
    lines = []
    for i, node in enumerate(nodes):
        if node in calls:
            lines.append(words.call(calls[node], node, f"out={words.name(node)}"))
        elif node not in fixed:
            lines.append(f"{words.name(node)} = {words.call(node.func, node)}")
        elif node.writes is not None:
            lines.append(words.call(node.func, node))
        if i in dying:
            lines.append(f"del {', '.join(map(words.name, dying[i]))}")
    lines.append(f"return {words.text(tuple(outputs))}")
    scope: dict[str, Any] = {}
    body = "\n    ".join(lines)
    exec(compile(f"def run({parameters}):\n    {body}\n", "<linear program>", "exec"), scope)
    return Straight(scope["run"].__code__, words.names, words.others)


@dataclass(frozen=True, slots=True)
class _Words:
    """Hold what code calls things."""

    names: dict[Node, str] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def name(self, node: Node) -> str:
        """Return the name of a tensor."""
        return self.names.setdefault(node, f"v{len(self.names)}")

    def other(self, value: Any) -> str:
        """Return the name of a function or a number."""
        name = f"f{len(self.others)}"
        self.others[name] = getattr(value, "_op", value)  # of an operator what its call does at once
        return name

    def call(self, func: Any, node: Node, *more: str) -> str:
        """Return the call of a function with a node's arguments."""
        arguments = [*map(self.text, node.args), *(f"{key}={self.text(value)}" for key, value in node.kwargs.items())]
        if isinstance(func, Seeded):
            arguments.insert(0, "start")
        return f"{self.other(func)}({', '.join([*arguments, *more])})"

    def text(self, value: Any) -> str:
        """Return an argument as it stands in code."""
        if isinstance(value, Node):
            return self.name(value)
        if isinstance(value, list):
            return f"[{', '.join(map(self.text, value))}]"
        if isinstance(value, tuple):
            return f"({''.join(f'{self.text(part)}, ' for part in value)})"
        return repr(value) if value is None or isinstance(value, (bool, int, str)) else self.other(value)
