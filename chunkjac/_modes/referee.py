"""Who is right when a block and one direction alone disagree."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chunkjac._problem import FixedNumbers, Leaf, Problem
from chunkjac._tensors import Tensors


def nearer(problem: Problem, seed: Tensors, candidates: Sequence[Tensors], *, by_rows: bool) -> int:
    """Return which candidate for the derivative at a seed is nearer to a central difference.

    A batching rule may be wrong, but so may be what is computed without it (the backward pass of
    ``native_group_norm`` outside of ``vmap``, torch 2.13). Differences know nothing of either.

    Args:
        problem: The function and its inputs.
        seed: Like the outputs for rows ``w J``, like the inputs for columns ``J u``.
        candidates: What it may be.
        by_rows: Which of the two.
    """
    tangent = random_tangent(problem.inputs) if by_rows else seed
    column = central_difference(problem, tangent)
    if by_rows:
        wanted = inner(seed, column)
        errors = [abs(inner(candidate, tangent) - wanted) for candidate in candidates]
    else:
        errors = [max(float((a - b).abs().max()) for a, b in zip(candidate, column)) for candidate in candidates]
    return errors.index(min(errors))


def random_tangent(leaves: Sequence[torch.Tensor | Leaf], number: int = 0) -> Tensors:
    """Return a fixed direction that leaves no element out, of both signs.

    Args:
        leaves: What it is like.
        number: Which of many.
    """
    numbers = FixedNumbers(number)
    return tuple(numbers.signed(leaf.shape, leaf.dtype).to(leaf.device) for leaf in leaves)


def central_difference(problem: Problem, tangent: Tensors) -> Tensors:
    """Return the central difference of the outputs along a tangent."""
    eps = max(torch.finfo(x.dtype).eps for x in problem.inputs)
    longest = max(float(t.abs().max()) for t in tangent)
    h = eps ** (1 / 3) * max(1.0, *(float(x.abs().max()) for x in problem.inputs)) / longest
    with torch.no_grad():
        ahead = problem.flat(*(x + h * t for x, t in zip(problem.inputs, tangent)))
        behind = problem.flat(*(x - h * t for x, t in zip(problem.inputs, tangent)))
    return tuple((a - b) / (2 * h) for a, b in zip(ahead, behind))


def inner(these: Tensors, those: Tensors) -> float:
    """Return the inner product of two lists of tensors, in double precision."""
    return sum(float((a.double() * b.double()).sum()) for a, b in zip(these, those))
