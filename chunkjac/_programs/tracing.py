"""One direction recorded: what depends on its inputs only, and what on the seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.func import jvp, vjp
from torch.utils._pytree import tree_flatten, tree_map

from chunkjac._problem import Leaf, Problem, plain_kernels
from chunkjac._programs.graph.graph import Graph, Node, run_all
from chunkjac._programs.graph.lives import peak_bytes
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.passes.real_transforms import with_real_transforms
from chunkjac._programs.passes.rules import RULES


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold a recorded direction.

    Attributes:
        graph: What was recorded, as far as the result depends on it.
        inputs: The nodes of the inputs and of all other tensors among the arguments.
        seeds: The nodes of the seed.
        opaque: The tensors among the arguments that are no such nodes, since they are not dense.
        before: The operations that do not depend on the seed.
        used: The nodes among them, inputs and constants that others use.
        direction_bytes: About what a direction's intermediate results take.
    """

    graph: Graph
    inputs: tuple[Node, ...]
    seeds: tuple[Node, ...]
    opaque: tuple[torch.Tensor, ...]
    before: tuple[Node, ...]
    used: set[Node]
    direction_bytes: int

    def fits(self, problem: Problem) -> bool:
        """Tell whether the trace is of arguments like these, and what was read of tensors from outside is still so."""
        dense, opaque = given_tensors(problem)
        is_alike = len(dense) == len(self.inputs) and all(
            node.layout is not None and (node.layout.shape, node.layout.dtype) == (tensor.shape, tensor.dtype)
            for node, tensor in zip(self.inputs, dense)
        )
        is_same = len(opaque) == len(self.opaque) and all(a is b for a, b in zip(opaque, self.opaque))
        return is_alike and is_same and all(read.holds() for read in self.graph.reads)

    def prologue(self, problem: Problem) -> dict[Node, Any]:
        """Run what does not depend on the seed; return what the rest uses of it."""
        given = given_tensors(with_own_arguments(problem))[0]
        env: dict[Node, Any] = {**self.graph.constants, **dict(zip(self.inputs, given, strict=True))}
        return run_all(self.before, env, self.used)


def trace(problem: Problem, seed_leaves: Sequence[Leaf], *, by_rows: bool) -> Trace:
    """Record one direction, at the problem's inputs.

    Attention and recurrent layers are taken apart: the fused backward passes have no batching rules
    on the CPU, nor forward derivatives.

    Raises:
        NotLinearError: The function draws random numbers, reads values, or writes to tensors from outside.
    """
    opaque = given_tensors(problem)[1]
    problem = with_own_arguments(problem)
    given = given_tensors(problem)[0]
    seed = tuple(torch.ones(leaf.shape, dtype=leaf.dtype, device=leaf.device) for leaf in seed_leaves)

    def direction() -> tuple[torch.Tensor, ...]:
        with plain_kernels():
            if by_rows:
                made: tuple[torch.Tensor, ...] = vjp(problem.flat, *problem.inputs)[1](seed)
            else:
                made = jvp(problem.flat, problem.inputs, seed)[1]
            return tuple(made)

    graph = with_real_transforms(merged(recorded(direction, (*given, *seed), seed, RULES)[0])).live()
    used = {part for node in graph.nodes if node.varies for part in node.operands if not part.varies}
    used.update(node for node in graph.outputs if not node.varies)
    return Trace(
        graph,
        graph.given[: len(given)],
        graph.given[len(given) :],
        opaque,
        tuple(node for node in graph.nodes if not node.varies),
        used,
        max(1, peak_bytes([node for node in graph.nodes if node.varies])),
    )


def given_tensors(problem: Problem) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Return the inputs and the other dense tensors among the arguments; and those that are not dense."""
    numbers = (problem.argnums,) if isinstance(problem.argnums, int) else problem.argnums
    others = [arg for i, arg in enumerate(problem.args) if i not in numbers]
    tensors = [leaf for leaf in tree_flatten(others)[0] if isinstance(leaf, torch.Tensor)]
    dense = (tensor for tensor in tensors if tensor.layout == torch.strided)
    return (*problem.inputs, *dense), tuple(tensor for tensor in tensors if tensor.layout != torch.strided)


def with_own_arguments(problem: Problem) -> Problem:
    """Return a problem whose arguments are tensors of their own, over the same memory.

    So which argument a tensor is shows, where one is given twice, or is also captured.
    """

    def own(value: Any) -> Any:
        is_dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
        return value.detach().requires_grad_(value.requires_grad) if is_dense else value

    return replace(
        problem, args=tuple(tree_map(own, arg) for arg in problem.args), inputs=tuple(map(own, problem.inputs))
    )
