"""The gradient of a function as a function, so that its Jacobian is the Hessian."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_unflatten

from chunkjac._chunker import OneHot
from chunkjac._errors import ArgumentTypeError
from chunkjac._modes import RowByRow
from chunkjac._problem import Problem, is_inside_transform


@dataclass(frozen=True)
class Gradient:
    """Give the Jacobian of a function, in reverse mode and in a way that can be differentiated.

    torch.func's where it can run the function, else row by row through a plain graph.

    Attributes:
        func: The function.
        argnums: By which arguments.
    """

    func: Callable[..., Any]
    argnums: int | tuple[int, ...]

    @classmethod
    def of(cls, func: Callable[..., Any], argnums: int | tuple[int, ...]) -> Gradient:
        """Check the function."""
        if not callable(func):
            raise ArgumentTypeError(f"func must be callable, found {type(func).__name__}.")
        return cls(func, argnums)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the gradient at a point."""
        func = functools.partial(self.func, **kwargs) if kwargs else self.func
        try:
            return torch.func.jacrev(func, self.argnums)(*args)
        except Exception:
            if is_inside_transform(args):
                raise
        return self._row_by_row(func, args)

    def _row_by_row(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Return the same through a plain graph, which takes what torch.func does not."""
        problem = Problem.inside(func, args, self.argnums, False)
        with torch.enable_grad():
            rung = RowByRow(problem)
            outputs = rung.outputs
            trees = []
            for number, leaf in enumerate(outputs.leaves):
                before = sum(other.numel for other in outputs.leaves[:number])
                seeds = OneHot(outputs.leaves).seeds(slice(before, before + leaf.numel))
                rows = [rung.one(tuple(values[i] for values in seeds)) for i in range(leaf.numel)]
                blocks = [torch.stack(column).view(*leaf.shape, *column[0].shape) for column in zip(*rows)]
                trees.append(tree_unflatten(blocks, problem.spec))
        return tree_unflatten(trees, outputs.spec)
