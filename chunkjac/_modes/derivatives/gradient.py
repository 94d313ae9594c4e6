"""The gradient of a function as a function, so that its Jacobian is the Hessian."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.func import jacrev
from torch.utils._pytree import TreeSpec, tree_leaves, tree_unflatten

from chunkjac._chunker import ElementDirections, Seeds
from chunkjac._modes.derivatives.graph_nodes import names_of, nodes_behind
from chunkjac._modes.derivatives.ladder import is_final
from chunkjac._modes.derivatives.pullbacks import RowByRow
from chunkjac._modes.referee import random_tangent
from chunkjac._problem import Problem, check_callable, is_inside_transform


@dataclass(frozen=True)
class Gradient:
    """Give the Jacobian of a function, in reverse mode and in a way that can be differentiated.

    torch.func's where it can run the function, else row by row through a plain graph.

    Attributes:
        func: The function.
        argnums: By which arguments.
        nodes: The names of the nodes of autograd's graph of it, as far as it was evaluated.
    """

    func: Callable[..., Any]
    argnums: int | tuple[int, ...]
    nodes: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, func: Callable[..., Any], argnums: int | tuple[int, ...]) -> Gradient:
        """Check the function."""
        check_callable(func)
        return cls(func, argnums)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the gradient at a point."""
        if torch.compiler.is_compiling():
            return jacrev(self.func, self.argnums)(*args, **kwargs)
        func = functools.partial(self.func, **kwargs) if kwargs else self.func

        def noted(*args: Any) -> Any:
            output = func(*args)
            if not self.nodes:
                self.nodes.update(names_of(nodes_behind(tree_leaves(output))))
            return output

        try:
            with torch.enable_grad():  # some backward formulas are not what forward AD expects without
                return jacrev(noted, self.argnums)(*args)
        except Exception as error:
            if is_final(error) or is_inside_transform(args):
                raise
        return self._row_by_row(func, args)

    def _row_by_row(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Return the same through a plain graph, which takes what torch.func does not."""
        problem = Problem.inside(func, args, self.argnums, False)
        with torch.enable_grad():
            spec, blocks = _blocks(problem)
            if not any(block.requires_grad for block in blocks):
                _check_constant(problem, blocks)
        n_inputs = len(problem.inputs)
        trees = [tree_unflatten(blocks[i : i + n_inputs], problem.spec) for i in range(0, len(blocks), n_inputs)]
        return tree_unflatten(trees, spec)


def _blocks(problem: Problem) -> tuple[TreeSpec, list[torch.Tensor]]:
    """Return the outputs' tree, and the Jacobian of each output by each input, with their graphs."""
    rung = RowByRow(problem)
    leaves, blocks = rung.outputs.leaves, []
    for number, leaf in enumerate(leaves):
        before = sum(other.numel for other in leaves[:number])
        seeds = Seeds(ElementDirections(leaves)).batch(slice(before, before + leaf.numel))
        rows = [rung.one(tuple(values[i] for values in seeds)) for i in range(leaf.numel)]
        columns = map(torch.stack, zip(*rows)) if rows else (x.new_empty((0, *x.shape)) for x in problem.inputs)
        blocks += [column.view((*leaf.shape, *column.shape[1:])) for column in columns]
    return rung.outputs.spec, blocks


def _check_constant(problem: Problem, blocks: list[torch.Tensor]) -> None:
    """Refuse a gradient that has no graph though it changes: its derivative would be taken for zero.

    That of a linear function has none either; it does not change.
    """
    steps = random_tangent(problem.inputs)
    moved = problem.with_inputs([x.detach() + 0.1 * step for x, step in zip(problem.inputs, steps)])
    for block, other in zip(blocks, _blocks(moved)[1]):
        noise = torch.finfo(block.dtype).eps ** 0.5
        if not torch.allclose(block, other, rtol=noise, atol=noise, equal_nan=True):
            raise RuntimeError("a backward pass in func cannot be differentiated itself (once_differentiable, NumPy)")
