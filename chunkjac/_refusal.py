"""What does not fit, said so that the user knows what to change."""

from __future__ import annotations

from dataclasses import replace

from chunkjac._errors import BudgetError
from chunkjac._job import Job
from chunkjac._probe import Probe, dry_probe
from chunkjac._units import format_bytes


def over_budget(job: Job, failure: str) -> BudgetError:
    """Return the error that says what would be needed, by mode, and what to change.

    Args:
        job: What does not fit.
        failure: What is known where no dry run can tell.
    """
    first = _least(job, job.request.mode)
    derivatives = job.request.mode == "auto" and (first is None or first.facts.name != "finite-difference")
    found = [_least(job, name) for name in ("reverse", "forward")] if derivatives else [first]
    probes = [probe for probe in found if probe is not None]
    needed_bytes = min((probe.peak_bytes for probe in probes), default=None)
    advice = [
        "max_memory" if needed_bytes is None else f"max_memory of {needed_bytes} bytes or more",
        *(["a smaller chunk_size"] if job.chunk_size is not None else []),
        "another mode",
        *(["a tensor of your own as out= (then the result does not count)"] if job.out is None else []),
    ]
    return BudgetError(
        f"the Jacobian does not fit in {format_bytes(job.budget.n_bytes)} ({job.budget.source}): "
        f"{'; '.join(map(_say, probes)) or failure}. Give {', '.join(advice[:-1])} or {advice[-1]}.",
        needed_bytes=needed_bytes,
        budget_bytes=job.budget.n_bytes,
    )


def _least(job: Job, name: str) -> Probe | None:
    """Return what a mode needs one direction at a time; ``None`` if a dry run cannot tell."""
    try:
        return dry_probe(replace(job, request=replace(job.request, mode=name), chunk_size=job.chunk_size or 1))
    except Exception:
        return None


def _say(probe: Probe) -> str:
    """Say what a mode needs, and for what."""
    cost = probe.cost
    return (
        f"{probe.facts.name} in chunks of {probe.chunk_size} needs {format_bytes(probe.peak_bytes)} "
        f"(result {format_bytes(cost.result_bytes)}, prologue {format_bytes(cost.prologue_bytes)}, "
        f"kept {format_bytes(cost.kept_bytes)}, per direction {format_bytes(cost.direction_bytes)})"
    )
