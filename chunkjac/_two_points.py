"""Two points at once: a function whose Jacobian has the rows of the Jacobians at both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map

from chunkjac._checks import check_argnums, check_inputs
from chunkjac._errors import ArgumentError, ArgumentTypeError


def at_two_points(
    func: Callable[..., Any], args: tuple[Any, ...], x2: Any, argnums: int | tuple[int, ...]
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return ``y -> (func(x + (y - c)), func(x2 + (y - c)))``, and its arguments: ``y = c`` are both points.

    ``c`` is in each element as large as both, so that the steps of finite differences move either point.

    Args:
        func: The function.
        args: The first point.
        x2: The second, as the user gave it.
        argnums: What is differentiated by.

    Raises:
        ArgumentTypeError, ArgumentError: ``x2`` is not like ``args``.
    """
    others = (x2,) if len(args) == 1 else x2
    if not isinstance(others, tuple) or len(others) != len(args):
        raise ArgumentTypeError(f"x2 must be a tuple of {len(args)} arguments, like x, found {type(x2).__name__}.")
    numbers = check_argnums(argnums, len(args))
    numbers = numbers if isinstance(numbers, tuple) else (numbers,)
    first, second = _leaves(args, numbers), _leaves(others, numbers)
    check_inputs(first, argnums)
    _check_alike(first, second)
    centre = {number: tree_map(_as_large_as_both, args[number], others[number]) for number in numbers}

    def both(*given: Any) -> tuple[Any, Any]:
        here, there = list(given[: len(args)]), list(given[len(args) :])
        for number, middle in centre.items():
            shift = tree_map(torch.sub, here[number], middle)
            here[number] = tree_map(torch.add, args[number], shift)
            there[number] = tree_map(torch.add, others[number], shift)
        return func(*here), func(*there)

    return both, (*(centre.get(number, arg) for number, arg in enumerate(args)), *others)


def _leaves(args: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
    """Return the leaves of some arguments."""
    return tree_flatten([args[number] for number in numbers])[0]


def _check_alike(first: Sequence[Any], second: Sequence[Any]) -> None:
    """Refuse a second point whose gradient has another shape.

    Raises:
        ArgumentError: The message has the first difference.
    """
    if len(first) != len(second):
        raise ArgumentError(f"x2 must have {len(first)} tensors to differentiate by, as x has, found {len(second)}.")
    for x, other in zip(first, second):
        was, now = (f"{tuple(t.shape)} {t.dtype} on {t.device}" for t in (x, torch.as_tensor(other)))
        if was != now:
            raise ArgumentError(f"x2 must be like x where func is differentiated: {was}, found {now}.")


def _as_large_as_both(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return in each element the root of the sum of squares, with no memory beside it; 0 if that is not finite."""
    return torch.hypot(x.detach(), other.detach()).nan_to_num_(0.0, 0.0, 0.0)
