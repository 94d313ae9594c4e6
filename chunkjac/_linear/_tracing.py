"""One direction of a problem, recorded: what depends on its inputs only, and what depends on the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from chunkjac._kernels import plain_kernels
from chunkjac._linear._graph import Graph, Node, live_nodes, substituted
from chunkjac._linear._recorder import recorded
from chunkjac._linear._rules import RULES
from chunkjac._problem import Problem
from chunkjac._types import Leaf


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold a recorded direction.

    Attributes:
        graph: What was recorded, as far as the result depends on it.
        inputs: The nodes of the inputs and of all other tensors among the arguments.
        seeds: The nodes of the seed.
        strides: How the inputs lay in memory.
    """

    graph: Graph
    inputs: tuple[Node, ...]
    seeds: tuple[Node, ...]
    strides: tuple[tuple[int, ...], ...]

    def fits(self, problem: Problem) -> bool:
        """Tell whether the trace is of inputs that lie in memory like these."""
        return self.strides == tuple(tensor.stride() for tensor in _given(problem))

    def prologue(self, problem: Problem) -> dict[Node, Any]:
        """Run what does not depend on the seed; return what the rest uses of it."""
        env: dict[Node, Any] = {**self.graph.constants, **dict(zip(self.inputs, _given(problem)))}
        needed = {part for node in self.graph.nodes if node.varies for part in node.operands if not part.varies}
        needed.update(node for node in self.graph.outputs if not node.varies)
        prologue = [node for node in self.graph.nodes if not node.varies]
        last = {operand: i for i, node in enumerate(prologue) for operand in node.operands}
        for i, node in enumerate(prologue):
            args, kwargs = substituted((node.args, node.kwargs), env)
            assert node.func is not None
            env[node] = node.func(*args, **kwargs)
            for operand in set(node.operands):
                if last[operand] == i and operand not in needed:
                    del env[operand]
        return {node: env[node] for node in needed}


def trace(problem: Problem, seed_leaves: Sequence[Leaf], *, by_rows: bool) -> Trace:
    """Record one direction, at the problem's inputs.

    Attention and recurrent layers are taken apart: the fused backward passes have no batching rules
    on the CPU, nor forward derivatives.

    Raises:
        NotLinearError: The function draws random numbers, reads values, or writes to tensors from outside.
    """
    given = _given(problem)
    seed = tuple(torch.ones(leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in seed_leaves)

    def direction() -> tuple[torch.Tensor, ...]:
        with plain_kernels():
            if by_rows:
                return torch.func.vjp(problem.flat, *problem.inputs)[1](seed)
            return torch.func.jvp(problem.flat, problem.inputs, seed)[1]

    graph, _ = recorded(direction, (*given, *seed), seed, RULES)
    live = live_nodes(graph.nodes, graph.outputs)
    used = {operand for node in live for operand in node.operands} | set(graph.outputs)
    constants = {node: tensor for node, tensor in graph.constants.items() if node in used}
    n = len(given)
    return Trace(
        Graph(live, graph.given, constants, graph.outputs),
        graph.given[:n],
        graph.given[n:],
        tuple(tensor.stride() for tensor in given),
    )


def _given(problem: Problem) -> tuple[torch.Tensor, ...]:
    """Return the inputs, and the other tensors among the arguments."""
    numbers = (problem.argnums,) if isinstance(problem.argnums, int) else problem.argnums
    others = [arg for i, arg in enumerate(problem.args) if i not in numbers]
    tensors = [leaf for leaf in tree_flatten(others)[0] if isinstance(leaf, torch.Tensor)]
    known = {id(tensor) for tensor in problem.inputs}
    return (
        *problem.inputs,
        *(tensor for tensor in tensors if id(tensor) not in known and tensor.layout == torch.strided),
    )
