"""Which mode: the one with the least work among those that can run the function."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from chunkjac._chunker import Counting
from chunkjac._errors import ChunkjacError, add_note
from chunkjac._memory import is_out_of_memory, reclaim
from chunkjac._modes import FAKE_ONLY, FiniteDifference, Forward, Mode, Reverse, is_empty, means_the_same
from chunkjac._planner.doubts import NOTHING, Doubt, doubt_about, reasons_of, why_nothing_fits
from chunkjac._planner.job import Job
from chunkjac._planner.trials import LEAST_TRIAL, Selection, faster, is_short, judge, trial_size, why_untimed
from chunkjac._problem import Outputs, Problem
from chunkjac._programs import Records


def select_mode(
    job: Job,
    counting: Counting,
    excluded: Mapping[str, Doubt] = NOTHING,
    programs: Records | None = None,
) -> Selection:
    """Return the mode to use, with its prologue run, and why.

    Args:
        job: What was asked for.
        counting: How closely memory is counted, and whether modes may be timed: they cannot be on fake tensors.
        excluded: What is known against modes; only ``auto`` heeds it.
        programs: What earlier runs of a plan have recorded.

    Raises:
        OverBudget: No mode that can differentiate the function fits.
    """
    name = job.options.mode
    if name == "auto":
        return _select_automatically(job, counting, excluded)
    try:
        return _make(job, name, counting, programs), (f"mode={name!r} was given",)
    except Exception as error:
        fault = _own_fault(job.problem, error)
        if fault is None and name == "finite-difference":
            raise  # there is no other mode left
        if fault is None:
            add_note(error, f"chunkjac: {name} mode cannot differentiate func; mode='auto' takes one that can.")
            raise
    raise fault


def _make(job: Job, name: str, counting: Counting, programs: Records | None = None) -> Mode:
    """Run a mode's prologue."""
    if name == "finite-difference":
        return _make_differences(job, programs)
    if name == "forward":
        return Forward(job.problem)
    return Reverse(job.problem, is_quick=counting.is_quick, programs=programs)


def _make_differences(job: Job, programs: Records | None = None) -> FiniteDifference:
    """Run the prologue of finite differences."""
    return FiniteDifference(
        job.problem,
        scheme=job.options.scheme,
        step=job.steps,
        batching=job.options.batching,
        bounds=job.bounds,
        programs=programs,
    )


def _own_fault(problem: Problem, failure: Exception) -> Exception | None:
    """Return what is the function's own fault, or memory's; ``None`` if the mode is to blame."""
    if is_out_of_memory(failure) or isinstance(failure, ChunkjacError):
        return failure
    try:
        problem.evaluate()
    except Exception as error:
        return error
    return None


def _select_automatically(job: Job, counting: Counting, excluded: Mapping[str, Doubt]) -> Selection:
    """Prefer fewer directions; where the counts are close and the job is long, less measured time."""
    problem, doubts = job.problem, dict(excluded)
    started_s = time.perf_counter()
    reverse = None if "reverse" in doubts else _try_reverse(problem, doubts, counting)
    prologue_s = time.perf_counter() - started_s
    if reverse and not reverse.flows and not is_empty(reverse):
        why = "no gradient flows from the inputs to the outputs"
        differences = _make_differences(job)
        if job.bounds is None and differences.divides_stairs:
            return reverse, (why, "func goes up in stairs, if at all")
        return differences, (why,)
    outputs = reverse.outputs if reverse else Forward.evaluated(problem)  # with what shows that it is right
    if reverse and counting.is_timed:  # fakes' calls were not looked at
        outputs = replace(outputs, nests=bool(problem.departures.nested))
    n_rows, n_columns = sum(leaf.numel for leaf in outputs.leaves), sum(leaf.numel for leaf in problem.leaves)
    counts = f"{n_rows} rows for reverse, {n_columns} columns for forward"
    if reverse and outputs.are_calls_all(n_rows):
        return reverse, (counts, "calls take the time, whatever the number of rows: operations are tiny")
    choice = judge(n_rows, n_columns, prologue_s if counting.is_timed else 0.0)
    if reverse and choice == "timed" and is_short(reverse):
        choice = judge(n_rows, n_columns, 0.0)
    if reverse and choice == "reverse":
        return reverse, (counts, *why_untimed(n_rows, n_columns), *reasons_of(doubts))
    if reverse and "forward" not in doubts and not _is_alike(reverse, doubts):
        return reverse, (counts, *reasons_of(doubts))
    if choice == "forward":
        reverse = None  # its activations need not be alive while forward is tried
    if choice == "forward" and counting.is_timed and "forward" not in doubts:
        return Forward(problem, outputs), (counts, *reasons_of(doubts))  # if it cannot, the first chunk tells
    n_trial = trial_size(n_rows, n_columns) if reverse else LEAST_TRIAL
    forward = None if "forward" in doubts else _try_forward(problem, outputs, doubts, n_trial)
    if forward and reverse:
        return faster(reverse, forward, n_trial, counts, doubts)
    if forward:
        return forward, (counts, *reasons_of(doubts))
    if "reverse" not in doubts:
        return reverse or Reverse(problem), (counts, *reasons_of(doubts))
    if not all(doubt.fits for doubt in doubts.values()):
        raise why_nothing_fits(doubts)
    return _make(job, "finite-difference", counting), reasons_of(doubts)


def _is_alike(reverse: Reverse, doubts: dict[str, Doubt]) -> bool:
    """Tell whether forward mode means what reverse mode does; note it if it does not.

    Whether forward mode can run the function is told elsewhere.
    """
    try:
        if means_the_same(Forward(reverse.problem, reverse.outputs), reverse):
            return True
    except FAKE_ONLY:
        raise
    except Exception as error:
        doubts["forward"] = doubt_about("forward", error)
        return False
    doubts["forward"] = Doubt("forward mode gives something else than reverse mode, which torch.func.jacrev is", True)
    return False


def _try_reverse(problem: Problem, doubts: dict[str, Doubt], counting: Counting) -> Reverse | None:
    """Run the prologue of reverse mode; note why it fails if it does."""
    try:
        return Reverse(problem, is_quick=counting.is_quick)
    except FAKE_ONLY:
        raise
    except Exception as error:
        fault = None if is_out_of_memory(error) else _own_fault(problem, error)
        doubts["reverse"] = doubt_about("reverse", error)
    if fault is not None:
        raise fault
    reclaim(problem.device, ran_out=not doubts["reverse"].fits)
    return None


def _try_forward(problem: Problem, outputs: Outputs, doubts: dict[str, Doubt], n_trial: int) -> Forward | None:
    """Compute a small chunk in forward mode; note why it fails if it does."""
    forward = Forward(problem, outputs)
    for size in sorted({n_trial, LEAST_TRIAL, 1}, reverse=True):
        try:
            forward.block(slice(0, min(size, forward.directions.n)))
        except FAKE_ONLY:
            raise
        except Exception as error:
            doubts["forward"] = doubt_about("forward", error)
        else:
            doubts.pop("forward", None)
            forward.release()
            return forward
        forward.release()
        reclaim(problem.device, ran_out=not doubts["forward"].fits)
        if doubts["forward"].fits:
            break  # fewer directions help against memory only
    return None
