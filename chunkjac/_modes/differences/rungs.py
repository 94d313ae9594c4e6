"""The ladder of finite differences: how the function takes several points at once.

A native batch, if its rows are seen to be independent; else ``vmap``; else one point after the other, which any
Python callable can do: NumPy, an external program, a quantised or compiled module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._errors import FunctionError, add_note
from chunkjac._memory import first_line, is_out_of_memory
from chunkjac._modes.differences.rows import Known, RowCheck
from chunkjac._modes.differences.silence import quiet_fakes
from chunkjac._problem import Problem
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


def find_rung(
    problem: Problem,
    batching: str | int,
    copies: Tensors,
    check: Callable[..., RowCheck],
    check_steady: Callable[[], None],
) -> BatchRung:
    """Return the highest rung that can run the function, or the one that was asked for.

    Args:
        problem: The function.
        batching: ``"auto"``, a rung, or the dimension of a native batch.
        copies: The point as it is evaluated, one tensor for each leaf.
        check: Makes the check of a native batch from ``call`` and ``alone``.
        check_steady: Refuses a random function. A native batch that passes its check needs no other: there the same
            point was evaluated several times.

    Raises:
        FunctionError: A native batch was asked for, and its rows are not independent.
    """
    if batching in ("loop", "vmap"):
        check_steady()
    if batching == "loop":
        return BatchRung(LOOP, None)
    if batching == "vmap":
        return _vmapped(problem, copies, told=True)
    call = _native(problem, batching)
    verdict = check(call=call, alone=lambda point: problem.flat(*point)).verdict()
    if verdict.fault is not None:
        check_steady()
        return fall_from_native(problem, batching, copies, verdict.fault)
    unsure = isinstance(copies[0], FakeTensor) and batching == "auto"
    reasons = ("whether rows of a batch are independent shows in the run: until then, shapes say so",)
    name = _NATIVE + (f", dimension {call.dim}" if call.dim else "")
    return BatchRung(name, call, reasons if unsure else (), verdict.known)


def known_native(problem: Problem, batching: str | int, name: str, check: Callable[..., RowCheck]) -> BatchRung:
    """Return the native batch that an earlier run has found, of a function that has not changed since.

    Args:
        problem: The function.
        batching: As for :func:`find_rung`.
        name: The rung's name.
        check: As for :func:`find_rung`.
    """
    call = _native(problem, batching)
    return BatchRung(name, call, known=check(call=call, alone=lambda point: problem.flat(*point)).known())


def fall_from_native(problem: Problem, batching: str | int, copies: Tensors, fault: str) -> BatchRung:
    """Return the rung below a native batch.

    Args:
        problem: The function.
        batching: As for :func:`find_rung`.
        copies: As for :func:`find_rung`.
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
    rung = _vmapped(problem, copies, told=False)
    return BatchRung(rung.name, rung.call, (f"no native batch: {fault}", *rung.reasons))


@dataclass(frozen=True, slots=True)
class _Native:
    """Call a function with its points stacked along a dimension of inputs and outputs."""

    func: Callable[..., Tensors]
    dim: int

    def __call__(self, batch: Tensors, problem: Problem | None = None) -> Tensors:
        """Evaluate rows of points, of the function or of another like it."""
        func = self.func if problem is None else problem.flat
        with torch.no_grad():
            if not self.dim:
                return func(*batch)
            values = func(*(rows.movedim(0, self.dim).contiguous() for rows in batch))
            return tuple(value.movedim(self.dim, 0) for value in values)


@dataclass(frozen=True, slots=True)
class _Vmapped:
    """Call ``vmap`` of a function."""

    func: Callable[..., Tensors]
    randomness: str

    def __call__(self, batch: Tensors, problem: Problem | None = None) -> Tensors:
        """Evaluate rows of points, of the function or of another like it."""
        func = self.func if problem is None else problem.flat
        with torch.no_grad():
            values: Any = torch.func.vmap(func, randomness=self.randomness)(*batch)
        return tuple(values)


def _native(problem: Problem, batching: str | int) -> _Native:
    """Return what calls a function with several points."""
    return _Native(problem.flat, 0 if isinstance(batching, str) else batching)


def _vmapped(problem: Problem, copies: Tensors, *, told: bool) -> BatchRung:
    """Try ``vmap`` on two copies of the point; fall to one point at a time unless ``vmap`` was asked for."""
    call = _Vmapped(problem.flat, problem.randomness)
    try:
        with quiet_fakes():
            call(tuple(x.expand(2, *x.shape).contiguous() for x in copies))
    except Exception as error:
        if told and not is_out_of_memory(error):
            add_note(error, "chunkjac: vmap cannot batch func; batching='auto' or 'loop' takes one point at a time.")
        if told or is_out_of_memory(error):
            raise
        return BatchRung(LOOP, None, (f"one point at a time, since vmap cannot batch func: {first_line(error)}",))
    return BatchRung(_VMAP, call)
