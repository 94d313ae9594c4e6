"""A finished Jacobian, checked against an independent mode in random directions.

``J u`` or ``w J`` for a random vector tells of every element at once: a Jacobian that is wrong
anywhere agrees with probability zero, up to rounding.

Source:
    The directional check of gradients; Freivalds, Probabilistic machines can use less running
    time, 1977 (a product of matrices checked by random vectors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isnan, nan

import torch

from chunkjac._errors import FunctionError
from chunkjac._memory import LiveBytes, drain_backward
from chunkjac._modes import FiniteDifference, Forward, Mode, Reverse, central_difference, random_tangent
from chunkjac._planner import doubt_about
from chunkjac._problem import PrecisionWatcher, Problem
from chunkjac._sinks import TensorSink
from chunkjac._tensors import Tensors

# Who checks whom: another way through the function first, differences where there is none.
_REFEREES = {
    "reverse": ("forward", "finite-difference"),
    "forward": ("reverse", "finite-difference"),
    "finite-difference": ("reverse", "forward", "finite-difference"),
}

# What a low precision allows at most.
_LARGEST_TOLERANCE = 0.3


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold what a check found.

    Attributes:
        error: The largest error in random directions, relative to the largest element there; ``None``
            where there is no one to compare with.
        reason: Who found it, and who could not.
    """

    error: float | None
    reason: str


def verify(sink: TensorSink, mode: Mode, n_checks: int, *, has_bounds: bool = False) -> Verdict:
    """Check a finished Jacobian; nothing of it is lost where no one can.

    Args:
        sink: Where it is.
        mode: What made it, closed.
        n_checks: In how many directions.
        has_bounds: Whether the function must not be evaluated at other points.

    Raises:
        FunctionError: The error is larger than rounding (or the differences' step) explains.
    """
    doubts: list[str] = []
    for name in _REFEREES[mode.name]:
        if name == "finite-difference" and has_bounds:
            doubts.append("finite-difference does not know the bounds here")
            continue
        try:
            found, eps = _largest_error(sink, mode, name, n_checks)
        except Exception as error:
            doubts.append(doubt_about(name, error).why)
        else:
            _check(found, _tolerance(mode, name, eps), mode.name, name)
            return Verdict(found, "; ".join([f"verified by {name}", *doubts]))
        drain_backward()
    return Verdict(None, "; ".join(["not verified", *doubts]))


def _largest_error(sink: TensorSink, mode: Mode, name: str, n_checks: int) -> tuple[float, float]:
    """Return the largest error by a referee, and the epsilon that it computed with."""
    with PrecisionWatcher() as seen:
        apply = _referee(mode.problem, name)
        errors = [_error(found, wanted) for found, wanted in _pairs(sink, mode, name, apply, n_checks)]
    return _largest(errors), seen.eps


def _referee(problem: Problem, name: str) -> Callable[[Tensors], Tensors]:
    """Return what applies the derivative to a vector, independently."""
    if name == "finite-difference":
        return lambda tangent: central_difference(problem, tangent)
    mode = Reverse(problem) if name == "reverse" else Forward(problem, by_tangents=True)
    if not mode.flows:
        raise FunctionError("no gradient flows")
    return mode.apply


def _pairs(
    sink: TensorSink, mode: Mode, name: str, apply: Callable[[Tensors], Tensors], n_checks: int
) -> Iterator[tuple[Tensors, Tensors]]:
    """Yield what the Jacobian and the referee say of the same vector."""
    by_rows = name == "reverse"
    leaves = mode.outputs.leaves if by_rows else mode.problem.leaves
    for number in range(n_checks):
        vector = random_tangent(leaves, number)
        yield (sink.rows_along(vector) if by_rows else sink.columns_along(vector)), apply(vector)


def _error(found: Tensors, wanted: Tensors) -> float:
    """Return the largest difference, relative to the largest element; NaN where just one is not finite."""
    pairs = [(f.flatten(), w.flatten()) for f, w in zip(found, wanted) if w.numel()]
    if any(not torch.equal(f.isfinite(), w.isfinite()) for f, w in pairs):
        return nan
    finite = [(f[w.isfinite()], w[w.isfinite()]) for f, w in pairs]
    largest = _largest([float(w.abs().max()) for _, w in finite if w.numel()])
    apart = _largest([float((f - w).abs().max()) for f, w in finite if w.numel()])
    return apart / largest if largest else apart


def _largest(values: list[float]) -> float:
    """Return the largest; NaN if one is (``max`` would lose it)."""
    return nan if any(isnan(value) for value in values) else max(values, default=0.0)


def _tolerance(mode: Mode, name: str, eps: float) -> float:
    """Return what rounding may explain; differences halve its digits once more."""
    leaves = (*mode.problem.leaves, *mode.outputs.leaves)
    eps = max(eps, *(torch.finfo(leaf.dtype).eps for leaf in leaves))
    exponent = 1 / 3 if "finite-difference" in (mode.name, name) else 1 / 2
    return min(_LARGEST_TOLERANCE, float(10 * eps**exponent))


def _check(error: float, tolerance: float, name: str, by: str) -> None:
    """Refuse a Jacobian that the referee does not confirm."""
    if not error <= tolerance:
        raise FunctionError(
            f"the Jacobian by {name} mode is not confirmed by {by}: in a random direction they differ by {error:.2g} "
            f"of the largest element, where {tolerance:.2g} is allowed. func may have a kink here (or step= and "
            "scheme= be too coarse, where they are used), a wrong derivative of its own, or meet an operation that "
            "torch differentiates wrongly; another mode= may do, and verify=0 "
            "gives it as it is."
        )


def estimated_error(mode: Mode, tracker: LiveBytes) -> float | None:
    """Return the estimated error of finite differences, found in no more memory than the job has held.

    Args:
        mode: What made the blocks; its buffers are given back.
        tracker: What has counted the job's live bytes.

    Returns:
        The largest absolute error of an element; ``None`` for other modes, and where there is no room or
        the function cannot be evaluated farther away: the Jacobian is there, and must not be lost.
    """
    if not isinstance(mode, FiniteDifference):
        return None
    mode.release()
    left_bytes = max(0, tracker.highest_bytes - tracker.live_bytes)
    limited = LiveBytes(mode.problem.device, limit_bytes=left_bytes, is_guess=not tracker.is_strict)
    try:
        with limited:
            return mode.error_estimate()
    except Exception:
        pass
    drain_backward()
    return None
