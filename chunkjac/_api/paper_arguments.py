"""The conversions and checks of the paper's class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from chunkjac._arguments import shown
from chunkjac._errors import ArgumentTypeError, FunctionError
from chunkjac._problem import PrecisionWatcher

DOUBLE_EPS = torch.finfo(torch.float64).eps


class LowerPrecisionError(Exception):
    """Tell that the function answers in a lower precision than the step is for."""


class PapersCall:
    """Call the function through its wrapper, and note what its first answer tells.

    Attributes:
        in_double_only: Whether lower precision is to be told of.
        answered: Whether the function has returned anything yet.
        eps: The rounding of the coarsest of its operations.
        is_complex: Whether it answers with complex numbers; they are handed on as pairs of real ones.
    """

    def __init__(self, function: Callable[..., Any], wrapper: Callable[..., Any] | None) -> None:
        self.function = function
        self.wrapper = wrapper
        self.in_double_only = False
        self.answered = False
        self.eps = 0.0
        self.is_complex = False

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Call the function with the engine's inputs."""
        if self.answered:
            output = self._output(inputs)
        else:
            with PrecisionWatcher() as seen:
                output = self._output(inputs)
            self._note(output, seen.eps)
        if self.in_double_only and self.eps > DOUBLE_EPS:
            raise LowerPrecisionError
        return torch.view_as_real(output.resolve_conj()) if self.is_complex else output

    def _output(self, inputs: Sequence[torch.Tensor]) -> Any:
        """Return what the function returns."""
        return self.function(*(inputs if self.wrapper is None else self.wrapper(*inputs)))

    def _note(self, output: Any, eps: float) -> None:
        """Note what an answer tells; refuse one that is not a tensor."""
        self.answered = True
        if not isinstance(output, torch.Tensor):
            raise FunctionError(
                f"function must return one tensor, found {type(output).__name__}; chunkjac.jacfd takes trees of them."
            )
        self.is_complex = output.is_complex()
        has_eps = self.is_complex or output.is_floating_point()
        self.eps = max(eps, torch.finfo(output.dtype).eps if has_eps else 0.0)


def as_complex(found: torch.Tensor, n_input_dims: int) -> torch.Tensor:
    """Join the real and imaginary parts, which are the last dimension of the output; no copy is made."""
    return torch.view_as_complex(found.movedim(-1 - n_input_dims, -1))


def converted(args: Sequence[Any], number: int, dtype: torch.dtype, keeps_tensors: bool) -> list[torch.Tensor]:
    """Return the arguments as tensors.

    Args:
        args: The arguments.
        number: The one to differentiate with respect to, which must not stay integers.
        dtype: What those become that do not stay as they are.
        keeps_tensors: Whether tensors stay as they are.
    """

    def stays(i: int, arg: Any) -> bool:
        return keeps_tensors and isinstance(arg, torch.Tensor) and (i != number or arg.is_floating_point())

    chosen = args[number]
    if isinstance(chosen, torch.Tensor) and chosen.is_complex():
        raise ArgumentTypeError(
            f"argument {number} must have real numbers, found {chosen.dtype}; give real and imaginary parts separately."
        )
    return [arg if stays(i, arg) else _as_tensor(i, arg, dtype) for i, arg in enumerate(args)]


def _as_tensor(i: int, arg: Any, dtype: torch.dtype) -> torch.Tensor:
    """Convert one argument."""
    if isinstance(arg, torch.Tensor):
        return arg.to(dtype)
    try:
        return torch.tensor(arg, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentTypeError(
            f"argument {i} must be a tensor, a number, or lists of numbers of one shape, found {type(arg).__name__} "
            f"({error})."
        ) from error


def number_of(argument: str, value: Any) -> float:
    """Return a real number as a float; tensors and arrays of one element are some."""
    try:
        if isinstance(value, str):
            raise TypeError
        return float(value)
    except Exception:
        raise ArgumentTypeError(f"{argument} must be a number, found {shown(value)}.") from None


def check_type(argument: str, value: Any, fits: bool, wanted: str) -> None:
    """Refuse a value of another type."""
    if not fits:
        raise ArgumentTypeError(f"{argument} must be {wanted}, found {shown(value)}.")
