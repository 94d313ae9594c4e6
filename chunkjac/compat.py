"""The paper's class, with its arguments and results, run by chunkjac's engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chunkjac._api import jacobian
from chunkjac._errors import ArgumentError, ArgumentTypeError, ChunkjacError, FunctionError, add_note, warn
from chunkjac._memory import is_out_of_memory
from chunkjac._problem import PrecisionWatcher

_PAPERS_DELTA = 1e-5
_DOUBLE_EPS = torch.finfo(torch.float64).eps

# Rounding of this share of the function's values, divided by delta, is worth a warning.
_NOISE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JacrevFinite:
    """Compute Jacobians by one-sided differences, as the paper's class of this name does.

    ``J[..., i] = (f(x + delta e_i) - f(x)) / delta``, a chunk of directions at a time. What the
    paper's class gets right comes out the same; the list below says where this one differs. New
    code is better served by :func:`chunkjac.jacfd`, which has central differences, finds its
    steps, and takes and returns trees of tensors.

    Args:
        function: Takes one or more tensors, returns one tensor.
        num_args: The number of the argument to differentiate with respect to; negative ones
            count from the end.
        wrapper: Called with the converted arguments; what it returns is unpacked into
            ``function``. ``None`` hands them on as they are.
        dim: A dimension of size 1 of that argument, along which ``function`` could take a batch.
            It is checked; the shape of the result does not depend on it.
        delta: The step, the same for all elements. A negative one goes the other way. The default
            is for double precision: where ``function`` computes in less, it stands for
            ``sqrt(eps) * max(abs(x), 1)`` in each element, since 1e-5 is lost in the rounding.
        override_dim_constraint: Allow arguments with different numbers of dimensions.
        method: ``"plus"`` or ``"minus"``: the way to go from the point.

    Calling it:
        The arguments are tensors, numbers, or lists and tuples of numbers. A single argument
        becomes float64; of several, tensors stay as they are and all else becomes float64. The
        call returns the Jacobian, a tensor.

    Raises:
        ArgumentTypeError, ArgumentError: An argument, here or of the call, cannot be used. The
            paper's class raises an ``AssertionError`` there.
        FunctionError: ``function`` is random, changes its input, or returns something else than
            one tensor.
        BudgetError: One direction does not fit in the budget of the settings.

    Shapes:
        ``(*output.shape, *input.shape)``.

    Memory:
        The budget of the settings, which the result counts in, instead of four or five times the
        result and ``n + 1`` copies of every argument. ``config_context(max_memory=...)`` sets it.

    Where it differs from the paper's class:
        - ``function`` and ``wrapper`` see one point, batched by ``vmap`` or one after the other,
          never a batch of ``n + 1``. So functions that combine rows (``x.sum(0)``, ``torch.cat``,
          matrix products) are right, and an axis of the output that is ``n + 1`` long, or two
          axes before a ``dim`` of 2 or more, are not taken for another.
        - Outputs without dimensions, arguments that are not contiguous and negative ``dim`` and
          ``num_args`` work.
        - Where ``function`` fails with a float64 argument (modules in single precision do),
          tensors keep their own precision, and numbers take torch's default one.
        - Lists of numbers, and tensors of integers by which is differentiated, are exact float64;
          there they are rounded to float32 on the way.
        - The division is by the step that rounding made of ``delta``. A ``delta`` that moves an
          element not at all is an error, not a zero; so is one of 0. One that is lost in the
          precision of ``function`` is warned of.
        - Arguments with complex numbers, empty ones, and outputs of integers are refused; complex
          outputs are not.
        - The result carries no graph. The object cannot be changed once it is made.

    Source:
        B. Hendrata, JacrevFinite: Finite Difference approach to replacing PyTorch Autograd, 2024.

    Example:
        >>> from chunkjac.compat import JacrevFinite
        >>> JacrevFinite(function=lambda x, y: x + y, num_args=0)((1, 1), [2, 3]).round(decimals=6)
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """

    function: Callable[..., Any]
    num_args: int
    wrapper: Callable[..., Any] | None = None
    dim: int | None = None
    delta: float = _PAPERS_DELTA
    override_dim_constraint: bool = False
    method: str = "plus"

    def __post_init__(self) -> None:
        """Check the arguments."""
        _check_type("function", self.function, callable(self.function), "callable")
        _check_type("wrapper", self.wrapper, self.wrapper is None or callable(self.wrapper), "None or callable")
        _check_type("num_args", self.num_args, _is_int(self.num_args), "an int")
        _check_type("dim", self.dim, self.dim is None or _is_int(self.dim), "None or an int")
        override = self.override_dim_constraint
        _check_type("override_dim_constraint", override, isinstance(override, bool), "a bool")
        _check_type("delta", self.delta, _is_number(self.delta), "a number")
        if not (math.isfinite(self.delta) and self.delta):
            raise ArgumentError(f"delta must be finite and not 0, found {self.delta!r}.")
        if self.method not in ("plus", "minus"):
            raise ArgumentError(
                f"method must be 'plus' or 'minus', found {self.method!r}; "
                "central differences are chunkjac.jacfd(function, scheme='central')."
            )

    def __call__(self, *args: Any) -> torch.Tensor:
        """Compute the Jacobian at a point."""
        if not -len(args) <= self.num_args < len(args):
            raise ArgumentError(f"num_args {self.num_args} is out of range: {len(args)} arguments were given.")
        number = self.num_args % len(args)
        inputs = _converted(args, number, torch.float64, keeps_tensors=len(args) > 1)
        self._check_dimensions(inputs, number)
        call = _Call(self.function, self.wrapper)
        try:
            return self._differences(call, inputs, number)
        except Exception as error:
            own = _converted(args, number, torch.get_default_dtype(), keeps_tensors=True)
            same = [x.dtype for x in own] == [x.dtype for x in inputs]
            if same or call.answered or isinstance(error, ChunkjacError) or is_out_of_memory(error):
                raise
        return self._differences(call, own, number)

    def _check_dimensions(self, inputs: Sequence[torch.Tensor], number: int) -> None:
        """Refuse different numbers of dimensions, and a ``dim`` that cannot hold a batch."""
        n_dims = [x.dim() for x in inputs]
        if len(set(n_dims)) > 1 and not self.override_dim_constraint:
            raise ArgumentError(
                f"the arguments must have the same number of dimensions, found {n_dims}; "
                "allow others with override_dim_constraint=True."
            )
        shape = tuple(inputs[number].shape)
        if self.dim is not None and not (-len(shape) <= self.dim < len(shape) and shape[self.dim] == 1):
            raise ArgumentError(
                f"dim must be a dimension of size 1 of argument {number}, found dim={self.dim} "
                f"and shape {shape}; None needs no such dimension."
            )

    def _differences(self, call: _Call, inputs: Sequence[torch.Tensor], number: int) -> torch.Tensor:
        """Let the engine compute them, with the step that the precision allows."""
        delta, eps = float(self.delta), torch.finfo(inputs[number].dtype).eps
        scheme = "forward" if (self.method == "plus") == (delta > 0) else "backward"
        compute = functools.partial(jacobian, call, *inputs, argnums=number, mode="finite-difference", scheme=scheme)
        by_default = abs(delta) == _PAPERS_DELTA
        call.in_double_only = by_default and eps <= _DOUBLE_EPS
        try:
            found = compute(step=None if by_default and eps > _DOUBLE_EPS else abs(delta))
        except _LowerPrecisionError:
            call.in_double_only = False
            found = compute(step=None)
        except ArgumentError as error:
            add_note(error, f"chunkjac: the step is JacrevFinite's delta, {delta}.")
            raise
        noise = max(eps, call.eps) / abs(delta)
        if noise > _NOISE and not by_default:
            warn(
                f"delta={delta} is lost in the rounding of the function's values: entries may be off by {noise:.0%} "
                "of them. Take a larger delta, the default one, or float64 throughout."
            )
        return _as_complex(found, inputs[number].dim()) if call.is_complex else found


class _LowerPrecisionError(Exception):
    """Tell that the function answers in a lower precision than the step is for."""


class _Call:
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
        if self.in_double_only and self.eps > _DOUBLE_EPS:
            raise _LowerPrecisionError
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


def _as_complex(found: torch.Tensor, n_input_dims: int) -> torch.Tensor:
    """Join the real and imaginary parts, which are the last dimension of the output; no copy is made."""
    return torch.view_as_complex(found.movedim(-1 - n_input_dims, -1))


def _converted(args: Sequence[Any], number: int, dtype: torch.dtype, keeps_tensors: bool) -> list[torch.Tensor]:
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


def _is_int(value: Any) -> bool:
    """Tell whether a value is a whole number; booleans are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Tell whether a value is a real number; tensors and arrays of one element are."""
    try:
        return not isinstance(value, str) and float(value) is not None
    except (TypeError, ValueError, RuntimeError):
        return False


def _check_type(argument: str, value: Any, fits: bool, wanted: str) -> None:
    """Refuse a value of another type."""
    if not fits:
        raise ArgumentTypeError(f"{argument} must be {wanted}, found {value!r}.")
