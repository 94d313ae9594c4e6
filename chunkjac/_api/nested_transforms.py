"""Jacobians inside a transform of torch.func, where nothing can be written in place.

There blocks have to be put together functionally, so the promise of memory holds at the
outermost level only. In reverse mode torch.func's own function does just that.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.func import jacfwd, jacrev, jvp, vmap
from torch.utils._pytree import tree_map, tree_unflatten

from chunkjac._api.jacobians import jacobian
from chunkjac._problem import Problem


def jacobian_inside(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    mode: str,
    argnums: int | tuple[int, ...],
    has_aux: bool,
    chunk_size: int | None,
    randomness: str = "error",
) -> Any:
    """Return what torch.func would; but its jacfwd gives zeros for negative argnums (torch 2.13)."""
    problem = Problem.inside(func, args, argnums, has_aux)
    argnums = problem.argnums
    if mode == "reverse":
        return jacrev(func, argnums, has_aux=has_aux, chunk_size=chunk_size)(*args)
    if chunk_size is None:
        return jacfwd(func, argnums, has_aux, randomness=randomness)(*args)
    return _columns(problem, chunk_size, randomness)


def jacobian_in_graph(func: Callable[..., Any], *args: Any, given: dict[str, Any], **kwargs: Any) -> Any:
    """Return what torch.func would, where torch.compile looks at each step: only its own are known there.

    Args:
        func: The function.
        *args: Its arguments.
        given: The options, as for :func:`jacobian_inside`.
        **kwargs: More arguments.
    """
    argnums, has_aux = given["argnums"], given["has_aux"]
    if given["mode"] == "finite-difference":
        return jacobian(partial(func, **kwargs), *args, **given)  # which says what to do
    if given["mode"] == "reverse":
        return jacrev(func, argnums, has_aux=has_aux, chunk_size=given["chunk_size"])(*args, **kwargs)
    positive = argnums % len(args) if isinstance(argnums, int) else tuple(number % len(args) for number in argnums)
    called = (lambda *point: func(*point, **kwargs)) if kwargs else func  # torch's takes none
    return jacfwd(called, positive, has_aux, randomness=given.get("randomness", "error"))(*args)


def _columns(problem: Problem, chunk_size: int, randomness: str) -> Any:
    """Compute the Jacobian column by column, so many at a time; torch.func.jacfwd takes no chunks."""
    numels = [x.numel() for x in problem.inputs]
    told: dict[str, Any] = {}

    def call(*inputs: torch.Tensor) -> Any:
        leaves, told["spec"], aux = problem.call(*inputs)
        return (leaves, aux) if problem.has_aux else leaves

    def push(direction: torch.Tensor) -> tuple[Any, Any]:
        parts = torch.nn.functional.one_hot(direction, sum(numels)).split(numels)
        tangents = tuple(part.to(x.dtype).view(x.shape) for part, x in zip(parts, problem.inputs))
        _, columns, *aux = jvp(call, problem.inputs, tangents, has_aux=problem.has_aux)
        return columns, aux

    directions = torch.arange(sum(numels), device=problem.device)
    columns, aux = vmap(push, chunk_size=chunk_size, randomness=randomness)(directions)
    trees = [
        tree_unflatten(
            [
                part.movedim(0, -1).reshape((*part.shape[1:], *x.shape))
                for part, x in zip(leaf.split(numels), problem.inputs)
            ],
            problem.spec,
        )
        for leaf in columns
    ]
    jacobian = tree_unflatten(trees, told["spec"])
    return (jacobian, tree_map(lambda part: part[0], aux[0])) if problem.has_aux else jacobian
