"""A job planned, with nothing computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from chunkjac._errors import ChunkjacError
from chunkjac._job import Job
from chunkjac._memory import OverBudget
from chunkjac._modes import n_directions
from chunkjac._plan import Plan
from chunkjac._planner import choose_chunk
from chunkjac._probe import Probe, dry_probe, real_probe
from chunkjac._refusal import over_budget
from chunkjac._run import describe
from chunkjac._select import Doubt, doubt_about
from chunkjac._units import format_bytes


def plan_job(job: Job) -> Plan:
    """Plan a job without computing anything, where fake tensors can run the function.

    Raises:
        BudgetError: The job does not fit.
    """
    excluded: dict[str, Doubt] = {}
    while True:
        try:
            probe = _probe(job, excluded)
        except OverBudget as error:
            failure = str(error)
            break
        if probe.cost.peak_bytes(job.chunk_size or 1) <= job.budget.n_bytes:
            return _plan_from(job, probe)
        failure = f"{probe.mode.name} holds {format_bytes(probe.cost.peak_bytes(job.chunk_size or 1))}"
        if job.request.mode != "auto":
            break
        excluded[probe.mode.name] = doubt_about(probe.mode.name, OverBudget(failure))
    raise over_budget(job, failure)


def _probe(job: Job, excluded: Mapping[str, Doubt]) -> Probe:
    """Probe on fake tensors; for real where those cannot run the function."""
    try:
        probe = dry_probe(job.problem, job.request, excluded)
    except ChunkjacError:
        raise
    except Exception:  # values are needed; what is really wrong with func shows in the real run
        probe = real_probe(job.problem, job.request, excluded, job.budget.n_bytes)
    return replace(probe, cost=replace(probe.cost, result_bytes=job.counted_bytes(probe.mode)))


def _plan_from(job: Job, probe: Probe) -> Plan:
    """Return the plan that follows from a probe."""
    terms = job.terms(probe.cost, n_directions(probe.mode))
    cost = replace(probe.cost, margin=terms.scratch_margin if probe.scratch else terms.margin)
    size = min(
        job.chunk_size or choose_chunk(cost, terms.n_directions, terms.budget_bytes, terms.target_bytes),
        terms.n_directions,
    )
    return describe(
        job=job,
        mode=probe.mode,
        cost=cost,
        chunk_size=size,
        n_chunks=-(-terms.n_directions // size),
        peak_bytes=cost.peak_bytes(size),
        reasons=probe.reasons,
    )
