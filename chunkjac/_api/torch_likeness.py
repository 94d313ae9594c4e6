"""What transforms share with torch.func's: graph, auxiliary result, context of errors."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from chunkjac._api.jacobians import jacobian
from chunkjac._api.nested_transforms import jacobian_in_graph, jacobian_inside
from chunkjac._errors import ChunkjacError, FunctionError
from chunkjac._planner import GivenToJacobian, read_options
from chunkjac._problem import check_callable, is_inside_transform


def derivative_of(name: str, func: Callable[..., Any], **given: Any) -> Callable[..., Any]:
    """Return a function of the point that behaves as torch.func's do.

    Args:
        name: What the user called.
        func: The function.
        **given: Options of :func:`jacobian`, among them ``mode``, ``argnums``, ``has_aux`` and ``chunk_size``.
    """
    if torch.compiler.is_compiling():
        return partial(jacobian_in_graph, func, given=given)
    check_callable(func)
    with Context(name):
        options = read_options(name, given, GivenToJacobian)
    given = {option: getattr(options, option) for option in given}

    @functools.wraps(func, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def derivative_at(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return jacobian_in_graph(func, *args, given=given, **kwargs)
        called = partial(func, **kwargs) if kwargs else func
        if is_inside_transform(args):
            return jacobian_inside(called, args, **given)
        with Context(name):
            can_have_graph = given["mode"] != "finite-difference" and given.get("randomness") != "different"
            graph = torch.is_grad_enabled() and can_have_graph
            found = jacobian(called, *args, create_graph=graph, **given)
            if given["has_aux"]:
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
