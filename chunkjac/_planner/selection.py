"""Which mode: the one with the least work among those that can run the function."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from chunkjac._errors import ChunkjacError, add_note
from chunkjac._memory import OverBudget, first_line, is_out_of_memory, reclaim, without_frames
from chunkjac._modes import FAKE_ONLY, Bounds, FiniteDifference, Forward, Mode, Reverse, is_empty, n_directions
from chunkjac._problem import Outputs, Problem
from chunkjac._programs import Records

# A direction of forward mode takes 0.6-7 times as long as one of reverse mode, mostly twice (the best
# of each over 25 functions, torch 2.13): where the counts differ by more than this, they decide; a
# job of seconds is worth a closer look.
_CLOSE, _CLOSE_IF_LONG = 4, 16
_MOSTLY = 2

# Shorter jobs (see `_guess_s`) are not timed, since that takes up to a tenth of them; nor those of less than some
# seconds in which forward mode has no fewer directions.
_WORTH_TIMING_S, _LONG_S, _VERY_LONG_S = 0.1, 1.0, 5.0

# A job is short if a 16th of its rows, 64 at most, tells that it takes less than that.
_SHORT_S, _SHORT_SHARE, _LARGEST_TRIAL = 0.3, 16, 64

# So many directions together take as long as the prologue, or so.
_PER_PROLOGUE = 16

# Trials are of a 64th of the directions: four of them take 6 %. One of 2 runs the kernels that larger
# chunks run, and those of 16 tell which mode is faster in large ones.
_TRIAL_SHARE, _TRIALS = 64, (2, 16)


@dataclass(frozen=True, slots=True)
class Doubt:
    """Hold why a mode is not used.

    Attributes:
        why: The reason, for people.
        fits: Whether the reason is something else than memory.
        failure: What an allocator raised, without frames; ``None`` where it was the budget.
    """

    why: str
    fits: bool
    failure: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """Hold what the user asked of the mode.

    Attributes:
        mode: A mode's name, or ``"auto"``.
        scheme: The difference formula.
        step: The step of each input leaf, checked.
        timed: Whether ``auto`` may time the modes; it cannot on fake tensors.
        batching: How finite differences give the function several points at once.
        bounds: The limits of each input leaf in finite differences, checked.
        is_quick: Whether memory is plenty, and nobody wants figures of it.
    """

    mode: str
    scheme: str
    step: Any
    timed: bool = True
    batching: str | int = "auto"
    bounds: tuple[Bounds, ...] | None = None
    is_quick: bool = False

    def may_leave(self, name: str) -> bool:
        """Tell whether another mode may be taken instead: finite differences are the last."""
        return self.mode == "auto" and name != "finite-difference"


Selection = tuple[Mode, tuple[str, ...]]
NOTHING: Mapping[str, Doubt] = MappingProxyType({})


def select_mode(
    problem: Problem,
    request: Request,
    excluded: Mapping[str, Doubt] = NOTHING,
    programs: Records | None = None,
) -> Selection:
    """Return the mode to use, with its prologue run, and why.

    Args:
        problem: The function and its inputs.
        request: What the user asked for.
        excluded: What is known against modes; only ``auto`` heeds it.
        programs: What earlier runs of a plan have recorded.

    Raises:
        OverBudget: No mode that can differentiate the function fits.
    """
    if request.mode == "auto":
        return _select_automatically(problem, request, excluded)
    try:
        return _make(problem, request, request.mode, programs), (f"mode={request.mode!r} was given",)
    except Exception as error:
        fault = _own_fault(problem, error)
        if fault is None and request.mode == "finite-difference":
            raise  # there is no other mode left
        if fault is None:
            add_note(error, f"chunkjac: {request.mode} mode cannot differentiate func; mode='auto' takes one that can.")
            raise
    raise fault


def differentiable_mode(problem: Problem, name: str) -> Mode:
    """Return a mode whose blocks have graphs."""
    return Reverse(problem, keeps_graph=True) if name == "reverse" else Forward(problem, keeps_graph=True)


def doubt_about(name: str, failure: BaseException) -> Doubt:
    """Return why a mode is not used, without holding on to the failure."""
    fits = not is_out_of_memory(failure)
    what = "cannot differentiate func" if fits else "does not fit in the budget"
    kept = None if fits or isinstance(failure, OverBudget) else without_frames(failure)
    return Doubt(f"{name} {what}: {first_line(failure)}", fits, kept)


def _make(problem: Problem, request: Request, name: str, programs: Records | None = None) -> Mode:
    """Run a mode's prologue."""
    if name == "finite-difference":
        return FiniteDifference(
            problem,
            scheme=request.scheme,
            step=request.step,
            batching=request.batching,
            bounds=request.bounds,
            programs=programs,
        )
    if name == "forward":
        return Forward(problem, programs=programs)
    return Reverse(problem, is_quick=request.is_quick, programs=programs)


def _own_fault(problem: Problem, failure: Exception) -> Exception | None:
    """Return what is the function's own fault, or memory's; ``None`` if the mode is to blame."""
    if is_out_of_memory(failure) or isinstance(failure, ChunkjacError):
        return failure
    try:
        problem.evaluate()
    except Exception as error:
        return error
    return None


def _select_automatically(problem: Problem, request: Request, excluded: Mapping[str, Doubt]) -> Selection:
    """Prefer fewer directions; where the counts are close and the job is long, less measured time."""
    doubts = dict(excluded)
    started_s = time.perf_counter()
    reverse = None if "reverse" in doubts else _try_reverse(problem, doubts, is_quick=request.is_quick)
    prologue_s = time.perf_counter() - started_s
    if reverse and not reverse.flows and not is_empty(reverse):
        return _make(problem, request, "finite-difference"), ("no gradient flows from the inputs to the outputs",)
    outputs = reverse.outputs if reverse else problem.evaluate()[1]
    n_rows, n_columns = sum(leaf.numel for leaf in outputs.leaves), sum(leaf.numel for leaf in problem.leaves)
    counts = f"{n_rows} rows for reverse, {n_columns} columns for forward"
    if reverse and outputs.are_calls_all(n_rows):
        return reverse, (counts, "calls take the time, whatever the number of rows: operations are many and tiny")
    choice = _judge(n_rows, n_columns, prologue_s if request.timed else 0.0)
    if reverse and choice == "timed" and _is_short(reverse):
        choice = _judge(n_rows, n_columns, 0.0)
    if reverse and choice == "reverse":
        return reverse, (counts, *_untimed(n_rows, n_columns), *_reasons(doubts))
    if choice == "forward":
        reverse = None  # its activations need not be alive while forward is tried
    if choice == "forward" and request.timed and "forward" not in doubts:
        return Forward(problem, outputs), (counts, *_reasons(doubts))  # if it cannot, the first chunk tells
    n_trial = max(_TRIALS[0], min(_TRIALS[1], min(n_rows, n_columns) // _TRIAL_SHARE)) if reverse else _TRIALS[0]
    forward = None if "forward" in doubts else _try_forward(problem, outputs, doubts, n_trial)
    if forward and reverse:
        return _faster(reverse, forward, n_trial, counts, doubts)
    if forward:
        return forward, (counts, *_reasons(doubts))
    if "reverse" not in doubts:
        return reverse or Reverse(problem), (counts, *_reasons(doubts))
    if not all(doubt.fits for doubt in doubts.values()):
        raise _why_nothing_fits(doubts)
    return _make(problem, request, "finite-difference"), _reasons(doubts)


def _judge(n_rows: int, n_columns: int, prologue_s: float) -> str:
    """Return the mode that the counts tell; ``"timed"`` where they are too close for that.

    Args:
        n_rows: The directions of reverse mode.
        n_columns: Those of forward mode.
        prologue_s: How long the function took with its graph; 0 if nothing may be timed.
    """
    guess_s = prologue_s * (1 + min(n_rows, n_columns) / _PER_PROLOGUE)
    close = _CLOSE_IF_LONG if guess_s >= _LONG_S else _CLOSE
    worth_s = _WORTH_TIMING_S if n_columns < n_rows else _VERY_LONG_S
    if guess_s >= worth_s and n_columns < n_rows * _CLOSE and n_rows < n_columns * close:
        return "timed"
    return "reverse" if n_rows <= n_columns * _MOSTLY or not n_columns else "forward"


def _is_short(reverse: Reverse) -> bool:
    """Tell whether reverse mode would be done in less time than comparing the modes is worth.

    The prologue tells little of functions of many small operations, whose chunks take the same time
    whatever their size. So a 16th of the rows is computed; that time 16 times over is an upper bound.
    """
    n_trial = max(_TRIALS[0], min(_LARGEST_TRIAL, n_directions(reverse) // _SHORT_SHARE))
    try:
        return _estimate_s(reverse, n_trial) < _SHORT_S
    except Exception:
        return False  # what is tried next tells why
    finally:
        reverse.release()


def _untimed(n_rows: int, n_columns: int) -> tuple[str, ...]:
    """Return why reverse mode was taken where the counts are close."""
    if n_rows > n_columns:
        return ("nothing was timed: a column takes twice as long as a row, mostly",)
    return ("nothing was timed: the mode with fewer directions",) if n_rows * _CLOSE > n_columns else ()


def _why_nothing_fits(doubts: Mapping[str, Doubt]) -> BaseException:
    """Return what an allocator raised; that the budget is too small, if it was not reached."""
    failures = [doubt.failure for doubt in doubts.values() if doubt.failure is not None]
    return failures[0] if failures else OverBudget("; ".join(_reasons(doubts)))


def _reasons(doubts: Mapping[str, Doubt]) -> tuple[str, ...]:
    """Return what speaks against modes, for people."""
    return tuple(doubt.why for doubt in doubts.values())


def _try_reverse(problem: Problem, doubts: dict[str, Doubt], *, is_quick: bool) -> Reverse | None:
    """Run the prologue of reverse mode; note why it fails if it does."""
    try:
        return Reverse(problem, is_quick=is_quick)
    except FAKE_ONLY:
        raise
    except Exception as error:
        fault = None if is_out_of_memory(error) else _own_fault(problem, error)
        doubts["reverse"] = doubt_about("reverse", error)
    if fault is not None:
        raise fault
    reclaim(problem.device)
    return None


def _try_forward(problem: Problem, outputs: Outputs, doubts: dict[str, Doubt], n_trial: int) -> Forward | None:
    """Compute a small chunk in forward mode; note why it fails if it does."""
    forward = Forward(problem, outputs)
    for size in sorted({n_trial, _TRIALS[0], 1}, reverse=True):
        try:
            forward.block(slice(0, min(size, n_directions(forward))))
        except FAKE_ONLY:
            raise
        except Exception as error:
            doubts["forward"] = doubt_about("forward", error)
        else:
            doubts.pop("forward", None)
            forward.release()
            return forward
        forward.release()
        reclaim(problem.device)
        if doubts["forward"].fits:
            break  # fewer directions help against memory only
    return None


def _faster(reverse: Reverse, forward: Forward, n_trial: int, counts: str, doubts: dict[str, Doubt]) -> Selection:
    """Return the mode whose directions take less time in all."""
    try:
        reverse.block(_trial(reverse, n_trial))  # the first time does lazy work, as forward's has done
        reverse_s, forward_s = _estimate_s(reverse, n_trial), _estimate_s(forward, n_trial)
    except Exception as error:
        if is_out_of_memory(error):  # of both at once, which says nothing of one alone
            return _fewer(reverse, forward), (counts, "the modes were not timed: both at once do not fit")
        doubts["reverse"] = doubt_about("reverse", error)
        return forward, (counts, *_reasons(doubts))
    finally:
        reverse.release()
        forward.release()
    mode: Mode = reverse if reverse_s <= forward_s else forward
    return mode, (counts, f"estimated {reverse_s:.2g} s for reverse, {forward_s:.2g} s for forward")


def _fewer(reverse: Mode, forward: Mode) -> Mode:
    """Return the mode with fewer directions."""
    return reverse if n_directions(reverse) <= n_directions(forward) else forward


def _estimate_s(mode: Mode, n_trial: int) -> float:
    """Return the seconds that all directions would take at the speed of a small chunk."""
    trial = _trial(mode, n_trial)
    started_s = time.perf_counter()
    mode.block(trial)
    return (time.perf_counter() - started_s) / trial.stop * n_directions(mode)


def _trial(mode: Mode, n_trial: int) -> slice:
    """Return a small chunk."""
    return slice(0, min(n_trial, n_directions(mode)))
