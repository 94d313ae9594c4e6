"""Functions whose Jacobians are products of another function's Jacobian with vectors.

``t -> f(x + V t)`` has ``J V``, and ``x -> U f(x)`` has ``U J``: so products are computed as Jacobians are, in chunks
of vectors, under a budget, in any mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._problem import Problem
from chunkjac._tensors import rows_of


def moved_along(problem: Problem) -> Callable[..., Any]:
    """Return ``(t, scales, V, *args) -> f(x + sum of t_i scales_i V_i)``.

    Args:
        problem: The function and its inputs.
    """
    func, argnums = problem.func, problem.argnums
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)

    def moved(t: torch.Tensor, scales: torch.Tensor, vectors: Any, *args: Any) -> Any:
        chosen, spec = tree_flatten([args[number] for number in numbers])
        parts = zip(chosen, tree_flatten(vectors)[0])
        steps = t * scales
        there = tree_unflatten([x + _combined(steps.to(v.dtype), v).view(x.shape) for x, v in parts], spec)
        given = dict(zip(numbers, there))
        return func(*(given.get(number, arg) for number, arg in enumerate(args)))

    return moved


def weighted(problem: Problem) -> Callable[..., Any]:
    """Return ``(*args, U) -> U f(x)``, with a row for each of the weights' rows, or without dimensions for one.

    Args:
        problem: The function and its inputs.
    """
    func = problem.func

    def sums(*given: Any) -> torch.Tensor:
        *args, weights = given
        outputs, spec = tree_flatten(func(*args))
        rows, _ = read_vectors(weights, outputs, spec, "outputs")
        dtype = torch.promote_types(outputs[0].dtype, outputs[-1].dtype)
        parts = [_weighted(u, y).to(dtype) for u, y in zip(rows, outputs)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    return sums


def read_vectors(vectors: Any, leaves: Sequence[Any], spec: Any, what: str) -> tuple[list[torch.Tensor], int | None]:
    """Return vectors, leaf by leaf, and how many there are; ``None`` for one without a dimension for it.

    Args:
        vectors: As the user gave them.
        leaves: What each vector is like.
        spec: Their tree.
        what: What these are called.

    Raises:
        ArgumentTypeError, ArgumentError: They are not like the leaves.
    """
    found, tree = tree_flatten(vectors)
    if tree != spec or not all(isinstance(leaf, torch.Tensor) for leaf in found):
        raise ArgumentTypeError(
            f"vectors, the last argument, must be tensors in a tree like the {what}, found {type(vectors).__name__}."
        )
    counts = set()
    for vector, leaf in zip(found, leaves):
        many = vector.dim() == len(leaf.shape) + 1
        if vector.shape[1 if many else 0 :] != leaf.shape:
            raise ArgumentError(
                f"vectors must have the shape of the {what}, {list(leaf.shape)}, or {['k', *leaf.shape]} for k, "
                f"found {list(vector.shape)}."
            )
        if vector.dtype != leaf.dtype or vector.device != leaf.device:
            raise ArgumentError(
                f"vectors must be like the {what}, {leaf.dtype} on {leaf.device}, "
                f"found {vector.dtype} on {vector.device}."
            )
        counts.add(len(vector) if many else None)
    if len(counts) > 1:
        raise ArgumentError(f"vectors must be as many in each tensor, found {sorted(map(str, counts))}.")
    return found, counts.pop()


def scales_of(vectors: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], count: int | None) -> torch.Tensor:
    """Return a power of two for each vector that makes it about as long as the inputs: nothing is rounded by it.

    The steps of finite differences are made for numbers of the size of the inputs, 1 at least.
    """
    size = max((float(_largest(x.reshape(1, -1))) for x in inputs if x.numel()), default=1.0)
    n_vectors = 1 if count is None else count
    rows = [_largest(v.reshape(n_vectors, v.numel() // n_vectors)) for v in vectors if v.numel()]
    largest = torch.stack([row.double().cpu() for row in rows]).amax(0).tolist() if rows else [1.0] * n_vectors
    wanted = max(1.0, size) if math.isfinite(size) else 1.0
    scales = [2.0 ** round(math.log2(wanted / x)) if 0 < x < math.inf else 1.0 for x in largest]
    return torch.tensor(scales, dtype=torch.float64).view(() if count is None else (count,))


def _largest(rows: torch.Tensor) -> torch.Tensor:
    """Return the largest magnitude in each row, without memory for all magnitudes."""
    found: torch.Tensor = torch.linalg.vector_norm(rows, ord=math.inf, dim=1)
    return found


def _combined(t: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the sum of vectors, so many times each."""
    return t @ rows_of(vectors) if t.dim() else t * vectors


def _weighted(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the sum of values, so many times each."""
    if weights.shape == values.shape:
        return (weights * values).sum()
    return rows_of(weights) @ values.reshape(-1)
