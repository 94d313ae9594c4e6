"""The ladder of finite differences: how the function takes several points at once.

A native batch, if its rows are seen to be independent; else ``vmap``, if they are; else one point after the other,
which any Python callable can do: NumPy, an external program, a quantised or compiled module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.func import vmap

from chunkjac._errors import FunctionError, add_note
from chunkjac._memory import at_rest, first_line, is_out_of_memory
from chunkjac._modes.differences.first_evaluation import FirstEvaluation
from chunkjac._modes.differences.rows import Known, RowCheck
from chunkjac._modes.differences.stencil import Stencil
from chunkjac._modes.silence import quiet_trial
from chunkjac._problem import Problem, without_graph
from chunkjac._tensors import Tensors

_LOOP = "loop"
_VMAP = "vmap(f)"
_NATIVE = "native batch"


@dataclass(frozen=True, slots=True)
class BatchRung:
    """Hold a way to evaluate a batch.

    Attributes:
        name: What a plan calls it.
        call: Evaluates rows of points; ``None`` where they are evaluated one after the other.
        reasons: Why it is not a higher one.
        known: A point whose value a batch must have as its last row.
    """

    name: str
    call: Callable[..., Tensors] | None
    reasons: tuple[str, ...] = ()
    known: Known | None = None


@dataclass(frozen=True, slots=True)
class Ladder:
    """Hold what finding a rung takes.

    Where an index that is out of bounds ends the process, which an accelerator does, no native batch is tried that
    nobody has asked for: indices of rows may be taken for those of elements. Nor are points that are far away.

    Attributes:
        problem: The function.
        batching: ``"auto"``, a rung, or the dimension of a native batch.
        point: The base point as the function is given it.
        stencil: Where it will be evaluated.
        first: Its first evaluation.
    """

    problem: Problem
    batching: str | int
    point: Tensors
    stencil: Stencil
    first: FirstEvaluation

    def start(self, hint: str = "") -> BatchRung:
        """Return the highest rung that can run the function, or the one that was asked for.

        Args:
            hint: The one that an earlier run has come to: those above are not tried.

        Raises:
            FunctionError: The function is random; or a native batch was asked for, and its rows are not independent.
        """
        names, reasons = self._names(), self._precautions()
        if hint in names[1:]:
            names, reasons = names[names.index(hint) :], (f"an earlier run has come to {hint}",)
        self.first.check_draws()
        return self._first(names, reasons)

    def below(self, rung: BatchRung, fault: str) -> BatchRung:
        """Return the next rung.

        Args:
            rung: One that has been given up.
            fault: Why.

        Raises:
            FunctionError: It was asked for.
        """
        self.first.check_again()
        if self.batching != "auto":
            raise FunctionError(self._refusal(fault))
        names = self._names()
        return self._first(names[names.index(rung.name) + 1 :], (*rung.reasons, _why(rung.name, fault)))

    def _names(self) -> tuple[str, ...]:
        """Return the rungs that may be taken, the highest first."""
        if self.batching == "auto":
            return (_NATIVE, _VMAP, _LOOP) if self._is_harmless else (_VMAP, _LOOP)
        named = {"vmap": _VMAP, "loop": _LOOP}
        return (named.get(str(self.batching), _NATIVE + (f", dimension {self._dim}" if self._dim else "")),)

    @property
    def _dim(self) -> int:
        """Return the dimension of a native batch."""
        return 0 if isinstance(self.batching, str) else self.batching

    @property
    def _is_harmless(self) -> bool:
        """Tell whether what fails is an exception wherever the function runs."""
        devices = {
            *self.problem.devices,
            *(leaf.device for leaf in (*self.problem.leaves, *self.first.seen.outputs.leaves)),
        }
        return all(device.type in ("cpu", "meta") for device in devices)

    def _precautions(self) -> tuple[str, ...]:
        """Say why the highest rung is not tried."""
        if self._is_harmless or self.batching != "auto":
            return ()
        return ("no native batch is tried where an index out of bounds ends the process: batching='native' takes one",)

    @at_rest()
    @torch.no_grad()
    def _first(self, names: tuple[str, ...], reasons: tuple[str, ...]) -> BatchRung:
        """Return the first rung that can run the function.

        One that runs it has seen the same point several times; else it is evaluated again.
        """
        for name in names:
            if name == _LOOP:
                break
            call = partial(_by_vmap, self.problem) if name == _VMAP else partial(_native, self.problem, self._dim)
            found = self._verdict(call)
            if isinstance(found, Known):
                unsure = name == _NATIVE and self.batching == "auto" and isinstance(self.point[0], FakeTensor)
                told = "whether rows of a batch are independent shows in the run: until then, shapes say so"
                return BatchRung(name, call, (*reasons, told) if unsure else reasons, found)
            self.first.check_again()
            if self.batching != "auto":
                raise FunctionError(self._refusal(found))
            reasons = (*reasons, _why(name, found))
        self.first.check_again()
        return BatchRung(_LOOP, None, reasons)

    def _verdict(self, call: Callable[..., Tensors]) -> Known | str:
        """Return why rows of a batch are not independent; a point that is known if they are."""
        try:
            with quiet_trial():
                base = self.problem.flat(*self.point) if self.stencil.scheme.is_complex else self.first.values
                check = RowCheck(call, self.problem, self.stencil, self.first.seen, base, self._is_harmless)
                return check.verdict()
        except Exception as error:
            if is_out_of_memory(error) and self.batching == "auto":
                return "the few points that show whether rows are independent do not fit in memory at once"
            if is_out_of_memory(error):
                raise
            if self.batching == "vmap":
                add_note(
                    error, "chunkjac: vmap cannot batch func; batching='auto' or 'loop' takes one point at a time."
                )
                raise
            return first_line(error)

    def _refusal(self, fault: str) -> str:
        """Say what the rung that was asked for needs."""
        if self.batching == "vmap":
            return (
                f"batching='vmap' needs func to give for several points what it gives for each alone: {fault}; leave "
                "batching at 'auto', or give 'loop'."
            )
        return (
            f"batching={self.batching!r} needs func to take several points along dimension {self._dim}, each on its "
            f"own, and to return their values along it: {fault}; leave batching at 'auto', or give 'vmap' or 'loop'."
        )


def _why(name: str, fault: str) -> str:
    """Say why a rung is not taken."""
    return f"one point at a time, since vmap cannot batch func: {fault}" if name == _VMAP else f"no {name}: {fault}"


@torch.no_grad()
def _native(problem: Problem, dim: int, batch: Tensors, other: Problem | None = None) -> Tensors:
    """Evaluate a function, or another like it, with its points along a dimension of inputs and outputs."""
    flat = (other or problem).flat
    if not dim:
        return flat(*batch)
    values = flat(*(rows.movedim(0, dim).contiguous() for rows in batch))
    return tuple(value.movedim(dim, 0) for value in values)


@torch.no_grad()
def _by_vmap(problem: Problem, batch: Tensors, other: Problem | None = None) -> Tensors:
    """Evaluate rows of points of a function, or of another like it."""
    values = vmap((other or problem).flat, randomness=problem.randomness)(*batch)
    return tuple(map(without_graph, values))
