"""What a function may be given, and may return."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._arguments import shown
from chunkjac._errors import ArgumentError, ArgumentTypeError, FunctionError


def check_callable(func: Any) -> None:
    """Refuse what is no function."""
    if not callable(func):
        raise ArgumentTypeError(f"func must be callable, found {shown(func)}.")
    if isinstance(func, type) and issubclass(func, (nn.Module, torch.autograd.Function)):
        remedy = "its method apply" if issubclass(func, torch.autograd.Function) else "an instance"
        raise ArgumentTypeError(f"func must be callable with tensors, found {shown(func)}; give {remedy}.")


def check_computed(values: Sequence[Any], inputs: Sequence[torch.Tensor]) -> None:
    """Refuse fake tensors that came from real inputs: they have no values, and writing them writes nothing."""
    if any(isinstance(value, FakeTensor) for value in values) and not any(isinstance(x, FakeTensor) for x in inputs):
        raise FunctionError(
            "func returned a fake tensor, which has no values: it keeps tensors for later calls (a cache) and was "
            "run on fakes before; clear that cache."
        )


def check_unchanged(inputs: Sequence[torch.Tensor], versions: Sequence[int]) -> None:
    """Refuse a function that wrote to the inputs it was given."""
    for i, (tensor, version) in enumerate(zip(inputs, versions)):
        if tensor._version != version:
            raise FunctionError(
                f"func changes input {i} in place, so its Jacobian is not defined at that input; "
                "clone the input in func before writing to it."
            )


def check_argnums(argnums: int | tuple[int, ...], n_args: int) -> int | tuple[int, ...]:
    """Return argnums without negative numbers."""
    numbers = argnums if isinstance(argnums, tuple) else (argnums,)
    for number in numbers:
        if not -n_args <= number < n_args:
            raise ArgumentError(
                f"argnums {shown(argnums)} is out of range: func is given only {n_args} positional inputs."
            )
    positive = tuple(number % n_args for number in numbers)
    if not positive:
        raise ArgumentError("argnums must be non-empty, found (); name at least one argument.")
    if len(set(positive)) < len(positive):
        raise ArgumentError(f"argnums must be unique, found {shown(argnums)}.")
    return positive if isinstance(argnums, tuple) else positive[0]


def check_inputs(leaves: Sequence[Any], argnums: int | tuple[int, ...]) -> None:
    """Refuse inputs that have no real derivative."""
    where = f"the arguments that argnums={shown(argnums)} names"
    if not leaves:
        raise ArgumentError(f"{where} hold no tensor; choose others with argnums.")
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise ArgumentTypeError(
                f"{where} must hold tensors only, found {type(leaf).__name__}; "
                "convert it with torch.as_tensor, or choose others with argnums."
            )
        if leaf.dtype.is_complex:
            raise ArgumentTypeError(
                f"Expected all inputs to be real, but {where} hold {leaf.dtype}; "
                "give real and imaginary parts separately."
            )
        if not leaf.dtype.is_floating_point:
            raise ArgumentTypeError(
                f"{where} must be real floating-point tensors, found {leaf.dtype}; convert with x.float()."
            )
        if leaf.layout != torch.strided or leaf.is_nested:
            found = "a nested tensor" if leaf.is_nested else leaf.layout
            raise ArgumentTypeError(f"{where} must be dense tensors, found {found}; convert with x.to_dense().")


def check_outputs(leaves: Sequence[Any]) -> None:
    """Refuse outputs that have no real derivative.

    Raises:
        FunctionError: An output is not a real, dense, floating-point tensor, or there are none.
    """
    if all(leaf is None for leaf in leaves):
        raise FunctionError(
            "vjp or jvp of func: Expected f to be a function that has non-empty output, found none; "
            "return at least one tensor."
        )
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise FunctionError(
                f"vjp or jvp of func: expected f(*primals) to return only tensors, found {type(leaf).__name__}."
            )
        if leaf.dtype.is_complex:
            raise FunctionError(
                f"Expected all outputs to be real, but func returned {leaf.dtype}; "
                "return real and imaginary parts separately (torch.view_as_real)."
            )
        if not leaf.dtype.is_floating_point:
            raise FunctionError(f"the output of func must be real floating-point tensors, found {leaf.dtype}.")
        if leaf.layout != torch.strided:
            raise FunctionError(f"the output of func must be dense tensors, found {leaf.layout}.")


def check_pair(returned: Any) -> tuple[Any, Any]:
    """Return output and auxiliary result of a function that must return both."""
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise FunctionError(
            "output of function f should be a tuple: (output, aux) if has_aux is True, "
            f"found {type(returned).__name__}; return a tuple of two, or leave has_aux at False."
        )
    return returned
