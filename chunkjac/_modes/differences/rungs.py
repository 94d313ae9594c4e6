"""The ladder of finite differences: how the function takes several points at once.

A native batch, if its rows are seen to be independent; else ``vmap``; else one point after the other, which any
Python callable can do: NumPy, an external program, a quantised or compiled module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.func import vmap

from chunkjac._chunker import Segment
from chunkjac._errors import FunctionError, add_note
from chunkjac._memory import at_rest, first_line, is_out_of_memory
from chunkjac._modes.differences.first_evaluation import FirstEvaluation
from chunkjac._modes.differences.rows import Known, RowCheck
from chunkjac._modes.differences.silence import quiet_fakes
from chunkjac._modes.differences.stencil import Stencil
from chunkjac._problem import Problem
from chunkjac._programs import SeenByDifferences
from chunkjac._tensors import Tensors

LOOP = "loop"
_VMAP = "vmap(f)"
_NATIVE = "native batch"


@dataclass(frozen=True, slots=True)
class BatchRung:
    """Hold a way to evaluate a batch.

    Attributes:
        name: What a plan calls it.
        call: Evaluates rows of points; ``None`` where they are evaluated one after the other.
        reasons: Why it is not a higher one.
        known: A point whose value a native batch must have as its last row.
    """

    name: str
    call: Callable[..., Tensors] | None
    reasons: tuple[str, ...] = ()
    known: Known | None = None


@at_rest()
@torch.no_grad()
def starting_rung(
    problem: Problem,
    batching: str | int,
    point: Tensors,
    stencil: Stencil,
    seen: SeenByDifferences,
    first: FirstEvaluation | None,
) -> BatchRung:
    """Return the highest rung that can run the function, the one that was asked for, or the one that is known.

    Args:
        problem: The function.
        batching: ``"auto"``, a rung, or the dimension of a native batch.
        point: The base point as the function is given it.
        stencil: Where it will be evaluated.
        seen: What is known of the function.
        first: Its first evaluation; ``None`` where an earlier run has found the rung, a native batch, and nothing has
            changed since.

    Raises:
        FunctionError: The function is random; or a native batch was asked for, and its rows are not independent.
    """
    dim = 0 if isinstance(batching, str) else batching
    call = partial(_native, problem.flat, dim)
    if first is None:
        return BatchRung(seen.rung, call, known=_row_check(problem, call, stencil, seen).known())
    first.check_draws()
    base = problem.flat(*point) if stencil.scheme.is_complex else first.values
    if batching in ("loop", "vmap"):
        first.check_again()
    if batching == "loop":
        return BatchRung(LOOP, None)
    if batching == "vmap":
        return _vmapped(problem, point, told=True)
    verdict = _row_check(problem, call, stencil, seen, base).verdict()
    if verdict.fault is not None:  # else the same point was evaluated several times, and no other check is needed
        first.check_again()
        return fall_from_native(problem, batching, point, verdict.fault)
    unsure = isinstance(point[0], FakeTensor) and batching == "auto"
    reasons = ("whether rows of a batch are independent shows in the run: until then, shapes say so",)
    name = _NATIVE + (f", dimension {dim}" if dim else "")
    return BatchRung(name, call, reasons if unsure else (), verdict.known)


def fall_from_native(problem: Problem, batching: str | int, point: Tensors, fault: str) -> BatchRung:
    """Return the rung below a native batch.

    Args:
        problem: The function.
        batching: As for :func:`starting_rung`.
        point: As for :func:`starting_rung`.
        fault: Why a native batch cannot be.

    Raises:
        FunctionError: A native batch was asked for.
    """
    if batching != "auto":
        dim = 0 if isinstance(batching, str) else batching
        raise FunctionError(
            f"batching={batching!r} needs func to take several points along dimension {dim}, each on its own, and "
            f"to return their values along it: {fault}; leave batching at 'auto', or give 'vmap' or 'loop'."
        )
    rung = _vmapped(problem, point, told=False)
    return BatchRung(rung.name, rung.call, (f"no native batch: {fault}", *rung.reasons))


@torch.no_grad()
def _native(flat: Callable[..., Tensors], dim: int, batch: Tensors, problem: Problem | None = None) -> Tensors:
    """Evaluate a function, or another like it, with its points along a dimension of inputs and outputs."""
    func = flat if problem is None else problem.flat
    if not dim:
        return func(*batch)
    values = func(*(rows.movedim(0, dim).contiguous() for rows in batch))
    return tuple(value.movedim(dim, 0) for value in values)


@torch.no_grad()
def _by_vmap(flat: Callable[..., Tensors], randomness: str, batch: Tensors, problem: Problem | None = None) -> Tensors:
    """Evaluate rows of points of a function, or of another like it."""
    func = flat if problem is None else problem.flat
    return tuple(vmap(func, randomness=randomness)(*batch))


def _vmapped(problem: Problem, point: Tensors, *, told: bool) -> BatchRung:
    """Try ``vmap`` on two copies of the point; fall to one point at a time unless ``vmap`` was asked for."""
    call = partial(_by_vmap, problem.flat, problem.randomness)
    try:
        with quiet_fakes():
            call(tuple(x.expand(2, *x.shape).contiguous() for x in point))
    except Exception as error:
        if told and not is_out_of_memory(error):
            add_note(error, "chunkjac: vmap cannot batch func; batching='auto' or 'loop' takes one point at a time.")
        if told or is_out_of_memory(error):
            raise
        return BatchRung(LOOP, None, (f"one point at a time, since vmap cannot batch func: {first_line(error)}",))
    return BatchRung(_VMAP, call)


def _row_check(
    problem: Problem, call: Callable[..., Tensors], stencil: Stencil, seen: SeenByDifferences, base: Tensors = ()
) -> RowCheck:
    """Return the check of a native batch."""
    whole = [Segment(i, slice(0, x.numel()), slice(0, x.numel())) for i, x in enumerate(stencil.inputs)]
    steps = (stencil.steps.of_segment(part, x.view(-1)) for part, x in zip(whole, stencil.inputs))
    return RowCheck(
        call=call,
        alone=lambda point: problem.flat(*point),
        inputs=tuple(stencil.inputs),
        leaves=seen.outputs.leaves,
        reaches=tuple(far.view(x.shape) for far, x in zip(steps, stencil.inputs)),
        bounds=stencil.bounds,
        is_complex=stencil.scheme.is_complex,
        eps=seen.eps,
        base=base,
    )
