"""Pointwise regions collapsed to their diagonal.

Theorem: a pointwise linear map is ``b -> f * b`` for a constant ``f``. Their composition is
``b -> (f g) * b``, the sum of two of the same ``b`` is ``b -> (f + g) * b``, and a view of ``f * b``
is the view of ``f`` times that of ``b``. So a chain of them costs one product for each chunk, made where
something else than a pointwise operation needs its value; the factors are the prologue's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chunkjac._programs.graph.graph import Graph, Node, run_node, written_memory
from chunkjac._programs.passes.padding import Padded, placed

aten = torch.ops.aten


@dataclass(slots=True)
class Scaled:
    """Hold ``factor * base``; ``factor`` is ``None`` for one.

    Attributes:
        base: A tensor that depends on the seeds.
        factor: A number, or a constant that is broadcast to the base's shape.
    """

    base: torch.Tensor
    factor: torch.Tensor | float | None = None
    made: torch.Tensor | None = None

    def value(self) -> torch.Tensor:
        """Return the product."""
        if self.factor is None:
            return self.base
        if self.made is None:
            self.made = self.base * self.factor
        return self.made

    def times(self, factor: torch.Tensor | float) -> Scaled:
        """Return it times a constant."""
        return Scaled(self.base, factor if self.factor is None else self.factor * factor)


def replay(graph: Graph, values: dict[Node, Any], wanted: Sequence[Node]) -> list[torch.Tensor]:
    """Run a graph at once with its pointwise regions collapsed.

    Args:
        graph: What to run; of its nodes those that depend on the seeds.
        values: What is known: the seeds, and all else that these nodes use.
        wanted: The nodes to return the values of.
    """
    plain = written_memory(graph.nodes)
    step = [node for node in graph.nodes if node.varies]
    last_use = {operand: i for i, node in enumerate(step) for operand in node.operands if operand.varies}
    kept = set(wanted)
    env: dict[Node, Any] = dict(values)
    for i, node in enumerate(step):
        made = None if node.root in plain else placed(node, env, _value)
        if made is None:
            for operand in node.operands:
                if isinstance(env[operand], Padded):
                    env[operand] = env[operand].value()
            rule = None if node.root in plain else _RULES.get(node.func)
            made = rule(node, env) if rule is not None else None
        if made is None:
            made = run_node(node, {operand: _value(env[operand]) for operand in node.operands})
        env[node] = made
        for operand in set(node.operands):
            if operand.varies and last_use[operand] == i and operand not in kept:
                del env[operand]
    return [_value(env[node]) for node in wanted]


def _value(held: Any) -> Any:
    return held.value() if isinstance(held, (Scaled, Padded)) else held


def _scaled(held: Any) -> Scaled:
    return held if isinstance(held, Scaled) else Scaled(held)


def _keeps_shape(node: Node, operand: Node) -> bool:
    """Tell whether an operation leaves shape and dtype of an operand as they are."""
    a, b = node.layout, operand.layout
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype


def _mul(node: Node, env: Mapping[Node, Any]) -> Scaled | None:
    """Multiply by a constant."""
    a, b = node.args
    if isinstance(b, Node) and b.varies:
        a, b = b, a
    if (isinstance(b, Node) and b.varies) or not _keeps_shape(node, a):
        return None
    return _scaled(env[a]).times(env[b] if isinstance(b, Node) else b)


def _div(node: Node, env: Mapping[Node, Any]) -> Scaled | None:
    """Divide by a constant."""
    a, b = node.args[:2]
    if len(node.args) > 2 or node.kwargs or not a.varies or not _keeps_shape(node, a):
        return None
    if isinstance(b, Node):
        return None if b.varies else _scaled(env[a]).times(torch.reciprocal(env[b]))
    return _scaled(env[a]).times(1 / b) if b else None


def _sum_of(sign: float) -> Callable[[Node, Mapping[Node, Any]], Scaled | None]:
    """Return the rule of adding multiples of the same base."""

    def rule(node: Node, env: Mapping[Node, Any]) -> Scaled | None:
        a, b = node.args
        alpha = sign * node.kwargs.get("alpha", 1)
        if not all(isinstance(part, Node) and part.varies and _keeps_shape(node, part) for part in (a, b)):
            return None
        this, that = _scaled(env[a]), _scaled(env[b])
        if this.base is that.base:
            f, g = (1.0 if s.factor is None else s.factor for s in (this, that))
            return Scaled(this.base, f + g * alpha)
        if that.factor is not None and that.made is None and isinstance(that.factor, torch.Tensor):
            return Scaled(torch.addcmul(this.value(), that.base, that.factor, value=alpha))
        if this.factor is not None and this.made is None and isinstance(this.factor, torch.Tensor) and alpha == 1:
            return Scaled(torch.addcmul(that.value(), this.base, this.factor))
        return None

    return rule


def _view(node: Node, env: Mapping[Node, Any]) -> Scaled | None:
    """Take a view of base and factor alike."""
    source, *rest = node.args
    held = _scaled(env[source])
    assert node.func is not None
    if held.factor is None or held.made is not None:
        return None
    if not isinstance(held.factor, torch.Tensor):
        return Scaled(node.func(held.base, *rest, **node.kwargs), held.factor)
    func = aten.reshape.default if node.func in _RESHAPES else node.func
    factor = func(held.factor.expand(source.layout.shape), *rest, **node.kwargs)
    return Scaled(node.func(held.base, *rest, **node.kwargs), factor)


_RESHAPES = {aten.view.default, aten._unsafe_view.default}
_VIEWS = (
    *_RESHAPES,
    aten.transpose.int,
    aten.t.default,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.select.int,
    aten.alias.default,
    aten.detach.default,
)
_RULES: dict[Any, Callable[[Node, Mapping[Node, Any]], Scaled | None]] = {
    aten.mul.Tensor: _mul,
    aten.mul.Scalar: _mul,
    aten.div.Tensor: _div,
    aten.div.Scalar: _div,
    aten.neg.default: lambda node, env: _scaled(env[node.args[0]]).times(-1.0),
    aten.add.Tensor: _sum_of(1),
    aten.sub.Tensor: _sum_of(-1),
    **dict.fromkeys(_VIEWS, _view),
}
