"""What transforms share with torch.func's: graph, auxiliary result, context of errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from chunkjac._api.jacobians import jacobian
from chunkjac._api.nested_transforms import jacobian_inside
from chunkjac._errors import ChunkjacError, FunctionError
from chunkjac._planner import GivenToJacobian, read_options
from chunkjac._problem import check_callable, is_inside_transform


def derivative_of(
    name: str,
    func: Callable[..., Any],
    *,
    mode: str,
    argnums: int | tuple[int, ...],
    has_aux: bool,
    chunk_size: int | None,
    randomness: str = "error",
) -> Callable[..., Any]:
    """Return a function of the point that behaves as torch.func's do."""
    check_callable(func)
    given: dict[str, Any] = {"mode": mode, "argnums": argnums, "has_aux": has_aux}
    given |= {"randomness": randomness, "chunk_size": chunk_size}
    with Context(name):
        given["chunk_size"] = read_options(name, given, GivenToJacobian).chunk_size

    @functools.wraps(func, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def derivative_at(*args: Any, **kwargs: Any) -> Any:
        called = functools.partial(func, **kwargs) if kwargs else func
        if is_inside_transform(args):
            return jacobian_inside(called, args, **given)
        with Context(name):
            graph = torch.is_grad_enabled() and mode != "finite-difference" and randomness != "different"
            found = jacobian(called, *args, create_graph=graph, **given)
            if has_aux:
                check_aux(found[1])
            return found

    return derivative_at


class Context:
    """Say in errors of ours which function was called."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        """Put the name before the message."""
        if isinstance(error, ChunkjacError):
            error.args = (f"{self._name}: {error.args[0]}", *error.args[1:])


def check_aux(aux: Any) -> None:
    """Refuse what torch.func refuses."""
    for part in tree_leaves(aux):
        if not isinstance(part, torch.Tensor):
            raise FunctionError(
                f"Expected tensors, got unsupported type {type(part).__name__} in aux; "
                "jacobian(..., has_aux=True) takes any."
            )
