"""Functions whose Jacobians are products of another function's Jacobian with vectors.

``t -> f(x + V t)`` has ``J V``, and ``x -> U f(x)`` has ``U J``: so products are computed as Jacobians are, in chunks
of vectors, under a budget, in any mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._arguments import reading, shown
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._problem import Problem
from chunkjac._tensors import rows_of, wide_type

# Vectors are looked at in so many pieces, of so many elements: no budget notices them, and one takes 50 microseconds.
_N_PIECES, _LEAST_PIECE, _LARGEST_PIECE = 64, 2**8, 2**16

# Steps that are shorter than wanted by so many powers of two still move the inputs.
_SPARE = 2


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
        there = tree_unflatten([x + _combined(steps, v, x.dtype).view(x.shape) for x, v in parts], spec)
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
        dtype = reduce(torch.promote_types, (y.dtype for y in outputs))
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
    with reading("vectors", vectors):
        found, tree = tree_flatten(vectors)
        if tree != spec or not all(isinstance(leaf, torch.Tensor) for leaf in found):
            raise ArgumentTypeError(
                f"vectors, the last argument, must be tensors in a tree like the {what}, found {shown(vectors)}."
            )
        counts = set()
        for vector, leaf in zip(found, leaves):
            many = vector.dim() == len(leaf.shape) + 1
            if vector.shape[1 if many else 0 :] != leaf.shape:
                raise ArgumentError(
                    f"vectors must have the shape of the {what}, {list(leaf.shape)}, or {['k', *leaf.shape]} for k, "
                    f"found {list(vector.shape)}."
                )
            if vector.dtype != leaf.dtype.to_real() or vector.device != leaf.device:
                raise ArgumentError(
                    f"vectors must be like the {what}, {leaf.dtype} on {leaf.device}, "
                    f"found {vector.dtype} on {vector.device}."
                )
            if vector.layout != torch.strided:
                raise ArgumentError(f"vectors must be dense, found {vector.layout}; convert them with to_dense().")
            counts.add(len(vector) if many else None)
        if len(counts) > 1:
            raise ArgumentError(f"vectors must be as many in each tensor, found {sorted(map(str, counts))}.")
    return found, counts.pop()


def scales_of(
    vectors: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], like: torch.Tensor
) -> tuple[torch.Tensor, bool]:
    """Return a power of two for each vector that makes its elements no larger than the inputs': nothing is rounded.

    The steps of finite differences suit moves of the size of each element, 1 at least: so no element is moved by more.
    The power is in the range of all types that it is multiplied in.

    Args:
        vectors: The vectors, leaf by leaf.
        inputs: The inputs.
        like: A number for each vector, or one number for one vector.

    Returns:
        The powers, and whether all are as large as wanted: finite differences need that, derivatives do not.
    """
    most = min(int(math.log2(torch.finfo(_wide(x.dtype)).max)) - 1 for x in (like, *vectors))
    suffices = True
    scales = torch.ones_like(like)
    flat = scales.view(-1)
    pairs = [
        (v.detach().reshape(len(flat), x.numel()), x.detach().reshape(-1)) for v, x in zip(vectors, inputs) if x.numel()
    ]
    n_elements = sum(x.numel() for _, x in pairs)
    piece = max(_LEAST_PIECE, min(_LARGEST_PIECE, len(flat) * n_elements // _N_PIECES))
    n_rows = max(1, piece // max(1, n_elements))
    for start in range(0, len(flat) if pairs else 0, n_rows):
        part = slice(start, start + n_rows)
        largest = [max(sizes) for sizes in zip(*(_relative_sizes(rows[part], x, piece) for rows, x in pairs))]
        powers = [round(-size) if math.isfinite(size) else 0 for size in largest]
        suffices = suffices and max(powers) <= most + _SPARE
        flat[part] = torch.tensor([2.0 ** max(-most, min(most, power)) for power in powers], dtype=flat.dtype)
    return scales, suffices


def _relative_sizes(rows: torch.Tensor, x: torch.Tensor, piece: int) -> list[float]:
    """Return the size of each row's largest element beside what is in its place in x, or 1 where that is less.

    Args:
        rows: The rows.
        x: What each of them is like.
        piece: How many elements are looked at at once.

    Returns:
        Logarithms to the base of two.
    """
    wide = wide_type(rows.device)
    found = torch.full((len(rows),), -math.inf, dtype=wide, device=rows.device)
    for start in range(0, len(x), piece):
        part = slice(start, start + piece)
        sizes = rows[:, part].to(wide).abs().log2_().sub_(x[part].to(wide).abs().clamp_(min=1).log2_())
        torch.maximum(found, sizes.amax(1), out=found)
    logarithms: list[float] = found.tolist()
    return logarithms


def _combined(t: torch.Tensor, vectors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the sum of vectors, so many times each."""
    wide = _wide(dtype).to_complex() if t.is_complex() else _wide(dtype)
    t, vectors = t.to(wide), vectors.to(wide)
    total = t @ rows_of(vectors) if t.dim() else t * vectors
    return total if t.is_complex() else total.to(dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return a type that can hold what vectors are multiplied by; half precision cannot."""
    return torch.promote_types(dtype, torch.float32)


def _weighted(weights: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the sum of values, so many times each."""
    if weights.shape == values.shape:
        return (weights * values).sum()
    return rows_of(weights).to(values.dtype) @ values.reshape(-1)
