"""A function whose Jacobian has the rows of the Jacobians at two points."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from chunkjac._arguments import reading, shown
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._problem import check_argnums, check_inputs, looks_like

# Elements whose sizes (1 at least) differ by more than this power of two get no common step: errors of central
# differences grow with the square.
_FAR = 2.0

# So many elements are compared at once: no budget notices them.
_PIECE = 2**14


def second_point(args: tuple[Any, ...], x2: Any, argnums: int | tuple[int, ...]) -> tuple[Any, ...]:
    """Return all arguments at the second point; those that are differentiated by, in the trees of the first.

    Args:
        args: The first point.
        x2: The second, as the user gave it.
        argnums: What is differentiated by.

    Raises:
        ArgumentTypeError, ArgumentError: ``x2`` is not like ``args``.
    """
    is_all = len(args) > 1 or (isinstance(x2, tuple) and len(x2) == 1 and not isinstance(args[0], tuple))
    others = x2 if is_all else (x2,)
    if not isinstance(others, tuple) or len(others) != len(args):
        raise ArgumentTypeError(f"x2 must be a tuple of {len(args)} arguments, like x, found {_told(x2)}.")
    others = [*others]
    for number in numbers_of(argnums, args):
        with reading("the arguments", args):
            leaves, spec = tree_flatten(args[number])
        check_inputs(leaves, argnums)
        try:
            found = spec.flatten_up_to(others[number])  # the keys of dictionaries may come in another order
        except Exception as error:
            raise ArgumentError(
                f"x2 must have the tree of x where func is differentiated, {spec}, found {shown(x2)}."
            ) from error
        for x, other in zip(leaves, found):
            was, now = looks_like(x), looks_like(other)
            if was != now or other.layout != x.layout:
                raise ArgumentError(f"x2 must be like x where func is differentiated: {was}, dense; found {now}.")
        others[number] = tree_unflatten(found, spec)
    return tuple(others)


def at_two_points(
    func: Callable[..., Any], args: tuple[Any, ...], others: tuple[Any, ...], argnums: int | tuple[int, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return ``y -> (func(x + (y - c)), func(x2 + (y - c)))``, and its arguments: ``y = c`` are both points.

    ``c`` is in each element as large as both, so that the steps of finite differences move either point.

    Args:
        func: The function.
        args: The first point.
        others: The second, like the first.
        argnums: What is differentiated by.
    """
    numbers = numbers_of(argnums, args)
    centre = {number: tree_map(_as_large_as_both, args[number], others[number]) for number in numbers}

    def both(*given: Any) -> tuple[Any, Any]:
        here, there = list(given[: len(args)]), list(given[len(args) :])
        for number, middle in centre.items():
            shift = tree_map(torch.sub, here[number], middle)
            here[number] = tree_map(torch.add, args[number], shift)
            there[number] = tree_map(torch.add, others[number], shift)
        return func(*here), func(*there)

    return both, (*(centre.get(number, arg) for number, arg in enumerate(args)), *others)


def are_far_apart(args: tuple[Any, ...], others: tuple[Any, ...], argnums: int | tuple[int, ...]) -> bool:
    """Tell whether elements at both points have such different sizes that no step of finite differences suits both."""
    pairs = (zip(*map(tree_leaves, (args[number], others[number]))) for number in numbers_of(argnums, args))
    return any(
        float((torch.log2(x.abs().clamp_(min=1)) - torch.log2(other.abs().clamp_(min=1))).abs().max()) > _FAR
        for x, other in chain.from_iterable(pairs)
        for x, other in zip(x.detach().reshape(-1).split(_PIECE), other.detach().reshape(-1).split(_PIECE))
        if x.numel()
    )


def _told(value: Any) -> str:
    """Return what stands where a tuple should."""
    return f"{len(value)}" if isinstance(value, tuple) else type(value).__name__


def numbers_of(argnums: int | tuple[int, ...], args: tuple[Any, ...]) -> tuple[int, ...]:
    """Return which arguments are differentiated by, counted from the first."""
    numbers = check_argnums(argnums, len(args))
    return numbers if isinstance(numbers, tuple) else (numbers,)


def _as_large_as_both(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return in each element the root of the sum of squares, with no memory beside it.

    What overflows becomes the largest number, from which no step is possible: an error is better than no move.
    """
    return torch.hypot(x.detach(), other.detach()).nan_to_num_(0.0)
