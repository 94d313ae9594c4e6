"""Who is right: differences are asked first, then the other derivative mode.

Whoever is wrong, two of three voices tell. Which operation is the cause is looked for only where something is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch

from chunkjac._errors import ChunkjacError, FunctionError, WrongError
from chunkjac._memory import OverBudget, first_line
from chunkjac._modes.derivatives.backward_pass import pulled_back
from chunkjac._modes.derivatives.derivative import Derivative
from chunkjac._modes.derivatives.double_backward import DoubleBackward
from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.pullbacks import RowByRow
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.mode import Mode
from chunkjac._modes.referee import random_tangent
from chunkjac._modes.referees.claims import ByColumns, ByRows, Gap, gap_between, judged
from chunkjac._modes.referees.culprits import likely_cause
from chunkjac._modes.referees.slopes import Slopes, loosened, slopes_along
from chunkjac._modes.referees.trust import claim_of, unknown_nodes, why_unsure
from chunkjac._problem import Departures, Outputs, Problem, plain_kernels
from chunkjac._tensors import Tensors

# A wrong derivative is wrong in another direction as well, and a chance is not.
_ANOTHER = 1000

_OTHER = {"reverse": ("forward",), "forward": ("reverse",), "finite-difference": ("reverse", "forward")}


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


def check_twice(problem: Problem, outputs: Outputs) -> None:
    """Check that the backward pass can be differentiated itself, unless that is known.

    Raises:
        FunctionError: It cannot: autograd takes the derivative of what it does not see for zero, and tells nobody.
    """
    if unknown_nodes(problem, outputs, "reverse", twice=True) == []:
        return
    weights = random_tangent(outputs.leaves)

    def row(*inputs: torch.Tensor) -> Tensors:
        with torch.enable_grad():
            given = tuple(x if x.requires_grad else x.detach().requires_grad_() for x in inputs)
            return pulled_back(problem.flat(*given), given, weights, batched=False, create_graph=True)

    again = Problem.of(row, problem.inputs, tuple(range(len(problem.inputs))), has_aux=False)
    try:
        with plain_kernels():
            slopes, pullback = slopes_along(again), RowByRow(again)
            agrees = not slopes.tell or judged(ByRows(pullback.one, pullback.outputs.leaves), again, slopes).agrees
    except (ChunkjacError, OverBudget):
        raise
    except Exception:
        return  # who takes the derivative tells
    if not agrees:
        raise FunctionError(
            "the Jacobian cannot be differentiated: a backward pass in func has no derivative itself (NumPy, "
            "once_differentiable), or a wrong one, as finite differences tell; write it in torch, or give "
            "create_graph=False."
        )


def check_columns(
    mode: Mode, apply: Callable[[Tensors], Tensors], n_checks: int, *, has_bounds: bool = False, says_why: bool = False
) -> Verdict:
    """Check what a finished Jacobian is along directions.

    Args:
        mode: What made it, closed.
        apply: Returns ``J u``.
        n_checks: In how many directions.
        has_bounds: Whether the function must not be evaluated at other points.
        says_why: Whether it is not finite, and the likely cause of that is asked for.

    Raises:
        WrongError: It is not what the referees tell.
    """
    verdict = _decided(mode, mode.problem, ByColumns(apply, mode.problem), n_checks, has_bounds)
    if not says_why:
        return verdict
    cause = likely_cause(mode.problem, mode.name) or "nothing tells why"
    return Verdict(verdict.error, f"{cause}, and neither differences nor another mode know better")


def check_mode(mode: Mode, room: Callable[[], AbstractContextManager[Any]]) -> Verdict:
    """Check a derivative by one direction, unless it is known to be right.

    Args:
        mode: What makes the blocks.
        room: Returns what is to be entered for a check: it sees to memory.

    Raises:
        WrongError: It is not what the referees tell.
    """
    if not isinstance(mode, Derivative):
        return Verdict(None, "nothing to verify: differences know nothing of derivatives")
    unsure = why_unsure(mode)
    if unsure is None:
        return Verdict(None, "verified by the list of operations")
    problem, claim = mode.problem, claim_of(mode)
    with room():
        if problem.draws.drew:  # other numbers than differences would draw
            problem = problem.drawing(again=True)
            claim = claim_of(_made(problem, mode.name))
        verdict = _decided(mode, problem, claim, 1, False)
    return Verdict(verdict.error, f"{verdict.reason}; {unsure}")


def _decided(mode: Mode, problem: Problem, claim: ByColumns | ByRows, n_checks: int, has_bounds: bool) -> Verdict:
    """Ask differences, and the other mode where they know nothing or say no."""
    doubts: list[str] = []
    gaps: list[Gap] = []
    tolerance = 0.0
    for number in range(n_checks):
        slopes = None if has_bounds else _slopes(mode, problem, number, doubts)
        tolerance = slopes.tolerance if slopes is not None else 0.0
        if slopes is None or not slopes.tell:
            break
        gap = judged(claim, problem, slopes)
        if gap.agrees:
            gaps.append(gap)
        elif not judged(claim, problem, _along(mode, problem, number + _ANOTHER)).agrees:
            kept = problem.departures.kept if mode.name != "finite-difference" else []
            if not kept:
                raise WrongError(_why_wrong(mode, problem, gap, slopes))
            if (still := _held_still(problem, mode)) is not None:
                return _decided(mode, still, claim, n_checks, has_bounds)
            doubts.append(f"differences move what func keeps from derivatives ({', '.join(kept)})")
            gaps.clear()
            break
    told = Verdict(max(gap.error for gap in gaps), "verified by finite differences") if gaps else None
    if told is not None and all(gap.is_whole for gap in gaps):
        return told
    if told is not None:
        doubts.append("differences know nothing of some outputs")
    elif not has_bounds and not doubts:
        doubts.append("differences know nothing: func is not finite beside the point, or too rough")
    by_the_other = _by_the_other(mode, problem, claim, n_checks, doubts, tolerance)
    if told is None or by_the_other.error is not None:
        return by_the_other
    return Verdict(told.error, "; ".join([told.reason, *doubts]))


def _held_still(problem: Problem, mode: Mode) -> Problem | None:
    """Return the problem so that nothing moves that is kept from a mode; ``None`` if that cannot be done."""
    by_tangents = mode.name == "forward" and DoubleBackward.name not in mode.rung
    if (holding := problem.departures.holding(by_tangents=by_tangents)) is None:
        return None
    still = replace(problem, watched=holding, has_grad=True, departures=Departures())
    try:
        with torch.no_grad():
            pairs = zip(problem.flat(*map(torch.clone, problem.inputs)), still.flat(*map(torch.clone, problem.inputs)))
            is_same = all(torch.equal(value, again) for value, again in pairs)
    except Exception:
        return None
    return still if is_same else None


def _by_the_other(
    mode: Mode, problem: Problem, claim: ByColumns | ByRows, n_checks: int, doubts: list[str], tolerance: float
) -> Verdict:
    """Ask the other derivative mode."""
    for name in _OTHER[mode.name]:
        try:
            other = claim_of(_made(problem, name))
            gaps = [gap_between(claim, other, number, tolerance) for number in range(n_checks)]
        except Exception as error:
            doubts.append(f"{name} cannot differentiate func: {first_line(error)}")
            continue
        worst = max(gaps, key=lambda gap: (not gap.agrees, gap.error))
        if not worst.agrees and problem.departures.divided:
            doubts.append(f"{name} means something else ({', '.join(problem.departures.divided)})")
            continue
        if not worst.agrees:
            raise WrongError(
                f"{mode.name} and {name} mode differ by {worst.error:.2g} of the largest element, and finite "
                "differences do not tell which is right."
            )
        return Verdict(worst.error, "; ".join([f"verified by {name}", *doubts]))
    return Verdict(None, "; ".join(["not verified", *doubts]))


def _slopes(mode: Mode, problem: Problem, number: int, doubts: list[str]) -> Slopes | None:
    """Return differences; ``None`` where the function cannot be evaluated beside the point."""
    try:
        return _along(mode, problem, number)
    except Exception as error:
        doubts.append(f"finite-difference cannot evaluate func beside the point: {first_line(error)}")
        return None


def _along(mode: Mode, problem: Problem, number: int) -> Slopes:
    """Return differences, with room for those that the mode takes itself."""
    slopes = slopes_along(problem, number)
    return loosened(slopes) if mode.name == "finite-difference" else slopes


def _made(problem: Problem, name: str) -> Derivative:
    """Return a mode that knows nothing of another."""
    mode = Reverse(problem) if name == "reverse" else Forward(problem, by_tangents=True)
    if not mode.flows:
        raise FunctionError("no gradient flows")
    return mode


def _why_wrong(mode: Mode, problem: Problem, gap: Gap, slopes: Slopes) -> str:
    """Return what is wrong, by what, and what is right."""
    right = [name for name in _OTHER[mode.name] if _is_right(problem, name, slopes)]
    if mode.name == "finite-difference":
        cause = "step= and scheme= may be too coarse"
    else:
        cause = likely_cause(problem, mode.name) or "no single operation was found to be the cause"
    instead = right[0] if right else "finite-difference"
    how = "agrees with them" if right else "does what they do" if mode.name != instead else "may need another step="
    return (
        f"the Jacobian by {mode.name} mode is not confirmed by finite-difference: along a random direction it is off "
        f"by {gap.error:.2g} of the largest element; {cause}; mode={instead!r} {how}."
    )


def _is_right(problem: Problem, name: str, slopes: Slopes) -> bool:
    """Tell whether another mode is what differences tell."""
    try:
        return judged(claim_of(_made(problem, name)), problem, slopes).agrees
    except Exception:
        return False
