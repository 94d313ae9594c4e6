"""The paper's class, with its arguments and results, run by chunkjac's engine."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from chunkjac._api import (
    DOUBLE_EPS,
    LowerPrecisionError,
    PapersCall,
    as_complex,
    check_type,
    converted,
    jacobian,
    number_of,
)
from chunkjac._arguments import read_int, shown
from chunkjac._errors import ArgumentError, ChunkjacError, add_note, warn
from chunkjac._memory import is_out_of_memory

_PAPERS_DELTA = 1e-5

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
        check_type("function", self.function, callable(self.function), "callable")
        check_type("wrapper", self.wrapper, self.wrapper is None or callable(self.wrapper), "None or callable")
        self._set("num_args", read_int("num_args", self.num_args))
        self._set("dim", None if self.dim is None else read_int("dim", self.dim, "None or an int"))
        override = self.override_dim_constraint
        check_type("override_dim_constraint", override, isinstance(override, bool), "a bool")
        self._set("delta", number_of("delta", self.delta))
        if not (math.isfinite(self.delta) and self.delta):
            raise ArgumentError(f"delta must be finite and not 0, found {self.delta}.")
        self._set("method", str.__str__(self.method) if isinstance(self.method, str) else "")
        if self.method not in ("plus", "minus"):
            raise ArgumentError(
                "method must be 'plus' or 'minus'; central differences are chunkjac.jacfd(function, scheme='central')."
            )

    def _set(self, name: str, value: Any) -> None:
        """Keep an argument as it was read."""
        object.__setattr__(self, name, value)

    def __call__(self, *args: Any) -> torch.Tensor:
        """Compute the Jacobian at a point."""
        if not -len(args) <= self.num_args < len(args):
            raise ArgumentError(f"num_args {shown(self.num_args)} is out of range: {len(args)} arguments were given.")
        number = self.num_args % len(args)
        inputs = converted(args, number, torch.float64, keeps_tensors=len(args) > 1)
        self._check_dimensions(inputs, number)
        call = PapersCall(self.function, self.wrapper)
        try:
            return self._differences(call, inputs, number)
        except Exception as error:
            own = converted(args, number, torch.get_default_dtype(), keeps_tensors=True)
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
                f"dim must be a dimension of size 1 of argument {number}, found dim={shown(self.dim)} "
                f"and shape {shape}; None needs no such dimension."
            )

    def _differences(self, call: PapersCall, inputs: Sequence[torch.Tensor], number: int) -> torch.Tensor:
        """Let the engine compute them, with the step that the precision allows."""
        delta, eps = float(self.delta), torch.finfo(inputs[number].dtype).eps
        scheme = "forward" if (self.method == "plus") == (delta > 0) else "backward"
        compute = functools.partial(jacobian, call, *inputs, argnums=number, mode="finite-difference", scheme=scheme)
        by_default = abs(delta) == _PAPERS_DELTA
        call.in_double_only = by_default and eps <= DOUBLE_EPS
        try:
            found = compute(step=None if by_default and eps > DOUBLE_EPS else abs(delta))
        except LowerPrecisionError:
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
        return as_complex(found, inputs[number].dim()) if call.is_complex else found
