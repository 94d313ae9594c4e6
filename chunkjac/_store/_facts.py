"""What the values of a Jacobian depend on, in words and digests: the same facts, the same values."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from chunkjac._modules import behind
from chunkjac._problem import Problem
from chunkjac._randomness import RandomState
from chunkjac._store._digests import tensor_digest
from chunkjac._types import Leaf


def facts_of(
    problem: Problem,
    outputs: Sequence[Leaf],
    mode: str,
    settings: Iterable[tuple[str, str]],
    before: RandomState | None = None,
) -> dict[str, Any]:
    """Return the facts, ready for JSON.

    Args:
        problem: The function and its inputs.
        outputs: What it returns.
        mode: The name of the mode.
        settings: What else the mode's values depend on.
        before: The generators' states when the job began; the mode's prologue has run since.
    """
    draws = before is not None and (problem.randomness == "same" or before.has_moved())
    arguments, tree = tree_flatten(problem.args)
    dictionaries = [part for module in problem.modules for part in (module._parameters, module._buffers)]
    held = [tensor for dictionary in dictionaries for tensor in dictionary.values()]
    captured = [value for value in behind(problem.func) if isinstance(value, torch.Tensor)]
    return {
        "function": name_of(problem.func),
        "arguments": [_told(argument) for argument in arguments],
        "their tree": str(tree),
        "argnums": list(problem.argnums) if isinstance(problem.argnums, tuple) else problem.argnums,
        "outputs": [f"{leaf.dtype} {list(leaf.shape)}" for leaf in outputs],
        "parameters and buffers": tensor_digest(tensor for tensor in held if tensor is not None),
        "captured tensors": tensor_digest(captured),
        "random numbers": tensor_digest(state for _, state in before.states) if before and draws else "none",
        "mode": mode,
        **dict(settings),
        "torch": torch.__version__,
        "chunkjac": _own_version(),
    }


def described(value: Any) -> str:
    """Return an option in words; tensors by their digests."""
    return ", ".join(_told(part) for part in tree_flatten(value)[0])


def name_of(func: Any) -> str:
    """Return the qualified name of a function; a module's is its class's."""
    while isinstance(func, functools.partial):
        func = func.func
    named = func if inspect.isroutine(func) or inspect.isclass(func) else type(func)
    return f"{getattr(named, '__module__', None) or ''}.{getattr(named, '__qualname__', repr(named))}".lstrip(".")


def _told(argument: Any) -> str:
    """Return an argument in words."""
    if not isinstance(argument, torch.Tensor):
        return repr(argument)
    return f"{argument.dtype} {list(argument.shape)} {tensor_digest([argument])}"


def _own_version() -> str:
    """Return the version of chunkjac that is installed."""
    try:
        return version("chunkjac")
    except PackageNotFoundError:
        return "unknown"
