"""How a Jacobian is checked, ahead and when it is finished, and how far differences are off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import nan

import torch

from chunkjac._chunker import Counting
from chunkjac._errors import RungWarning, WrongError, warn
from chunkjac._memory import LiveBytes, OverBudget, drain_backward
from chunkjac._modes import (
    FiniteDifference,
    Mode,
    Verdict,
    check_columns,
    check_mode,
    is_empty,
)
from chunkjac._planner import Job
from chunkjac._problem import Problem
from chunkjac._sinks import FileSink, TensorSink


def verify_ahead(job: Job, mode: Mode, tracker: LiveBytes, counting: Counting) -> Verdict:
    """Check a derivative by one direction before any block is made, if it is not known to be right.

    That is a few evaluations: where nobody has set a limit and the first took little, they are not counted.

    Args:
        job: What was asked for.
        mode: What makes the blocks.
        tracker: What has counted the prologue.
        counting: How closely the job is counted.

    Raises:
        WrongError: It is not what the referees tell.
    """
    if job.options.verify != "auto" or job.options.randomness == "different" or is_empty(mode):
        return Verdict(None, "")
    is_guess, counted = not job.budget.explicit, list[LiveBytes]()

    def room() -> AbstractContextManager[object]:
        if is_guess and tracker.highest_bytes < counting.uncounted_bytes:
            return nullcontext()
        left_bytes = max(0, job.left_bytes(tracker))
        counted.append(LiveBytes(mode.problem.device, limit_bytes=left_bytes, is_guess=is_guess))
        return counted[-1]

    try:
        return check_mode(mode, room)
    except OverBudget as error:
        return Verdict(None, f"not verified: {error}")
    finally:
        for each in counted:  # the mode may have taken another rung, which keeps other values
            tracker.take_over(each)


def verify_numbers(sink: TensorSink, mode: Mode, verdict: Verdict, *, may_leave: bool) -> Verdict:
    """Check a finished Jacobian only if it holds what is no number, where the outputs are finite.

    Args:
        sink: Where it is.
        mode: What made it.
        verdict: What is known of it.
        may_leave: Whether another mode may be taken; else it is warned of what the check finds.

    Raises:
        WrongError: Another mode knows better.
    """
    n_nan = sink.count_nan()
    if not n_nan or not _is_finite(mode.problem):
        return verdict
    told = f"{n_nan} elements of the Jacobian are NaN, where func's outputs are finite"
    try:
        found = check_columns(mode, sink.columns_along, 1, says_why=True)
    except WrongError as error:
        if may_leave:
            raise
        warn(f"{told}: {error}", RungWarning)
        return Verdict(nan, f"not verified: {error}")
    warn(f"{told}; {found.reason}.", RungWarning)
    return Verdict(found.error, f"not verified: {told}")


def warn_of_nan(sink: FileSink, mode: Mode) -> None:
    """Warn if what was written to files holds what is no number, where the outputs are finite."""
    n_nan = sink.count_nan()
    if n_nan and _is_finite(mode.problem):
        warn(
            f"{n_nan} elements that were written are NaN, where func's outputs are finite; without out=, jacobian(...) "
            "tells by which operation, and verify=0 says nothing of it.",
            RungWarning,
        )


def _is_finite(problem: Problem) -> bool:
    """Tell whether the function is finite at its point."""
    try:
        with torch.no_grad():
            return all(bool(value.isfinite().all()) for value in problem.flat(*(x.clone() for x in problem.inputs)))
    except Exception:
        return False


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
