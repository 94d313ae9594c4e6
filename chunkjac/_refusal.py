"""What does not fit, said so that the user knows what to change."""

from __future__ import annotations

from dataclasses import replace

from chunkjac._errors import BudgetError
from chunkjac._job import Job
from chunkjac._planner import Cost
from chunkjac._probe import dry_probe
from chunkjac._units import format_bytes


def over_budget(job: Job, failure: str) -> BudgetError:
    """Return the error that says what would be needed, by mode, and what to change."""
    budget_bytes = job.budget.n_bytes
    names = ("reverse", "forward") if job.request.mode == "auto" else (job.request.mode,)
    needs = {name: _need(job, name) for name in names}
    known = {name: cost for name, cost in needs.items() if cost is not None}
    size = job.chunk_size or 1
    lines = [
        f"{name} needs at least {format_bytes(cost.peak_bytes(size))} "
        f"(result {format_bytes(cost.result_bytes)}, prologue {format_bytes(cost.prologue_bytes)}, "
        f"kept {format_bytes(cost.kept_bytes)}, fixed {format_bytes(cost.fixed_bytes)}, "
        f"per direction {format_bytes(cost.direction_bytes)}, with chunks of {size})"
        for name, cost in known.items()
    ]
    needed_bytes = min((cost.peak_bytes(size) for cost in known.values()), default=None)
    detail = "; ".join(lines) or failure
    enough = "" if needed_bytes is None else f" of {needed_bytes} bytes or more"
    smaller = ", a smaller chunk_size" if job.chunk_size else ""
    out = "" if job.out is not None else ", or pass your own tensor as out= so that the result does not count"
    return BudgetError(
        f"the Jacobian does not fit in {format_bytes(budget_bytes)} ({job.budget.source}): {detail}. "
        f"Give max_memory{enough}{smaller}, another mode{out}.",
        needed_bytes=needed_bytes,
        budget_bytes=budget_bytes,
    )


def _need(job: Job, name: str) -> Cost | None:
    """Return what a mode would cost, from a dry run; ``None`` if it cannot tell."""
    try:
        probe = dry_probe(job.problem, replace(job.request, mode=name), {})
    except Exception:
        return None
    return replace(probe.cost, result_bytes=job.counted_bytes(probe.mode))
