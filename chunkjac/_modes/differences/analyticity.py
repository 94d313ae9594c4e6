"""Whether a complex step tells the derivative of a real function."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._errors import FunctionError
from chunkjac._memory import at_rest, first_line, is_out_of_memory
from chunkjac._modes.differences.bounds import Bounds
from chunkjac._modes.differences.schemes import tiny_step
from chunkjac._modes.differences.slopes import imaginary
from chunkjac._problem import FixedNumbers, Problem
from chunkjac._tensors import Tensors, largest_finite

# How many times its own estimated error a difference may be off; how many times rounding: eps * abs(f) at the points
# that are subtracted, and what rounding these points changes, eps^(2/3) of what a step of eps^(1/3) does. At the inputs
# themselves, squared residuals of a solved problem vanish.
_TRUNCATIONS, _ROUNDINGS = 10, 100

_REMEDY = "give scheme='central' or 'richardson'"


@at_rest()
def check_analytic(problem: Problem, bounds: Sequence[Bounds] | None, eps: float) -> None:
    """Compare the complex step with differences in one random direction.

    What takes an absolute value or a real part within the function loses the derivative on the way,
    and so do products that are computed with fewer multiplications (torch's complex convolutions:
    the tiny part drowns in the other).

    Args:
        problem: The function.
        bounds: The limits of the inputs, if there are any.
        eps: The machine epsilon that the function computes with.

    Raises:
        FunctionError: ``func`` does not take complex numbers, or is not analytic.
    """
    directions = list(_directions(problem.inputs, bounds, eps))
    with torch.no_grad():
        slopes = _complex_slopes(problem, directions, tiny_step(eps))
        values = [problem.flat(*_moved(problem.inputs, directions, i, bounds)) for i in (0, 1, 2, 4)]
        for slope, (base, once, twice, four_times) in zip(slopes, zip(*values)):
            fine, coarse = _one_sided(base, once, twice, 1), _one_sided(base, twice, four_times, 2)
            noise = eps * largest_finite(four_times) + eps ** (2 / 3) * largest_finite(four_times - base)
            allowed = _TRUNCATIONS * (fine - coarse).abs() + _ROUNDINGS * noise
            is_right = ((slope - fine).abs() <= allowed) | ~fine.isfinite() | ~coarse.isfinite()
            if not (isinstance(is_right, FakeTensor) or bool(is_right.all())):
                raise FunctionError(
                    "scheme='complex' differs from real differences: func is not analytic (it takes an absolute value, "
                    f"a real part or a maximum on the way), or loses tiny imaginary parts (convolutions and "
                    f"Fourier transforms do); {_REMEDY}."
                )


def _complex_slopes(problem: Problem, directions: Sequence[torch.Tensor], h: float) -> Tensors:
    """Return the derivative in a direction, by a complex step."""
    try:
        values = problem.flat(*(torch.complex(x, h * v) for x, v in zip(problem.inputs, directions)))
        return tuple(imaginary(value) / h for value in values)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        why = first_line(error)
    raise FunctionError(f"scheme='complex' needs func to take complex inputs, and it raised: {why}; {_REMEDY}.")


def _directions(inputs: Sequence[torch.Tensor], bounds: Sequence[Bounds] | None, eps: float) -> Iterator[torch.Tensor]:
    """Yield how far each input is moved in one step of the differences; four of them stay within the bounds."""
    numbers = FixedNumbers()
    for number, x in enumerate(inputs):
        step = eps ** (1 / 3) * x.abs().clamp_(min=1) * numbers.signed(x.shape, x.dtype).to(x.device) / 3
        if bounds is not None:
            above, below = bounds[number].high - x, x - bounds[number].low
            step = torch.where(above >= below, step.abs().minimum(above / 4), -step.abs().minimum(below / 4))
        yield step


def _moved(
    inputs: Sequence[torch.Tensor], directions: Sequence[torch.Tensor], n_steps: int, bounds: Sequence[Bounds] | None
) -> Tensors:
    """Return the inputs some steps away."""
    moved = tuple(x + n_steps * v for x, v in zip(inputs, directions))
    return moved if bounds is None else tuple(limits.clamp(x) for limits, x in zip(bounds, moved))


def _one_sided(base: torch.Tensor, near: torch.Tensor, far: torch.Tensor, step: int) -> torch.Tensor:
    """Return the derivative from values at 0, ``step`` and ``2 * step``."""
    return (2 * (near - base) - (far - base) / 2) / step
