"""One direction of a problem, recorded: what depends on its inputs only, and what depends on the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from chunkjac._kernels import plain_kernels
from chunkjac._linear._graph import Graph, Node, live_nodes, run_all
from chunkjac._linear._merging import merged
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
        values: The nodes of what the function returns.
        before: The operations that do not depend on the seed.
        needed: The nodes among them, and constants, that others use, and those of ``values``.
        used: Those of them that others use.
        direction_bytes: About what a direction's intermediate results take.
    """

    graph: Graph
    inputs: tuple[Node, ...]
    seeds: tuple[Node, ...]
    strides: tuple[tuple[int, ...], ...]
    values: tuple[Node, ...]
    before: tuple[Node, ...]
    needed: set[Node]
    used: set[Node]
    direction_bytes: int

    def fits(self, problem: Problem) -> bool:
        """Tell whether the trace is of inputs that lie in memory like these, and what was read is still so."""
        as_given = self.strides == tuple(tensor.stride() for tensor in _given(problem))
        return as_given and all(read.holds() for read in self.graph.reads)

    def prologue(self, problem: Problem) -> dict[Node, Any]:
        """Run what does not depend on the seed; return what the rest uses of it, and the function's values."""
        env: dict[Node, Any] = {**self.graph.constants, **dict(zip(self.inputs, _given(problem)))}
        return run_all(self.before, env, self.needed)


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
                values, vjp = torch.func.vjp(problem.flat, *problem.inputs)[:2]
                return (*values, *vjp(seed))
            values, made = torch.func.jvp(problem.flat, problem.inputs, seed)[:2]
            return (*values, *made)

    graph = merged(recorded(direction, (*given, *seed), seed, RULES)[0])
    n_made = len(problem.inputs) if by_rows else len(graph.outputs) - len(graph.outputs) // 2
    values, outputs = graph.outputs[:-n_made], graph.outputs[-n_made:]
    live = live_nodes(graph.nodes, graph.outputs)
    mentioned = {operand for node in live for operand in node.operands} | set(graph.outputs)
    constants = {node: tensor for node, tensor in graph.constants.items() if node in mentioned}
    used = {part for node in live if node.varies for part in node.operands if not part.varies}
    used.update(node for node in outputs if not node.varies)
    n = len(given)
    return Trace(
        Graph(live, graph.given, constants, outputs, graph.reads),
        graph.given[:n],
        graph.given[n:],
        tuple(tensor.stride() for tensor in given),
        values,
        tuple(node for node in live if not node.varies),
        used | set(values),
        used,
        _peak_bytes([node for node in live if node.varies]),
    )


def _peak_bytes(nodes: Sequence[Node]) -> int:
    """Return the most that results of operations hold at once."""
    last = {operand.root: i for i, node in enumerate(nodes) for operand in (*node.operands, node)}
    dead: dict[int, int] = {}
    live_bytes = peak_bytes = 1
    for i, node in enumerate(nodes):
        if node.memory is None and node.layout is not None:
            live_bytes += node.layout.n_bytes
            dead[last[node]] = dead.get(last[node], 0) + node.layout.n_bytes
        peak_bytes = max(peak_bytes, live_bytes)
        live_bytes -= dead.pop(i, 0)
    return peak_bytes


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
