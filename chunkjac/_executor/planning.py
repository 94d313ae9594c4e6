"""A job planned, with nothing computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch

from chunkjac._errors import ChunkjacError
from chunkjac._executor.experience import Experience
from chunkjac._executor.run import run_planned
from chunkjac._memory import OverBudget
from chunkjac._planner import Doubt, Job, Plan, Probe, doubt_about, dry_probe, over_budget, real_probe
from chunkjac._units import format_bytes


@torch.inference_mode(False)
def plan_job(job: Job) -> Plan:
    """Plan a job without computing anything, where fake tensors can run the function.

    Raises:
        BudgetError: The job does not fit.
    """
    counting = job.counting()
    excluded: dict[str, Doubt] = {}
    while True:
        try:
            probe = _probe(job, excluded)
        except OverBudget as error:
            failure = str(error)
            break
        if counting.allows(probe.peak_bytes):
            probe = replace(probe, reasons=(*probe.reasons, *_away(job), *_uncompiled(job)))
            experience = Experience.of(compiles=job.options.compile, is_kept=True)
            n_chunks = -(-probe.summary.n_directions // probe.chunk_size)
            return probe.told(job, n_chunks, partial(run_planned, experience))
        failure = f"{format_bytes(probe.peak_bytes)} are needed"
        if not job.may_leave(probe.summary.name):
            break
        excluded[probe.summary.name] = doubt_about(probe.summary.name, OverBudget(failure))
    raise over_budget(job, failure)


def _probe(job: Job, excluded: Mapping[str, Doubt]) -> Probe:
    """Probe on fake tensors; for real where those cannot run the function."""
    try:
        return dry_probe(job, excluded)
    except ChunkjacError:
        raise
    except Exception:
        pass  # values are needed, or func is wrong: the real run tells
    return real_probe(job, excluded)


def _away(job: Job) -> tuple[str, ...]:
    """Say what a plan for another device goes by."""
    here, there = job.problem.device, job.device
    return () if there == here else (f"sizes are those of kernels on {here}, as memory of {there} counts them",)


def _uncompiled(job: Job) -> tuple[str, ...]:
    """Say what the first run is to find out."""
    return ("the first run compiles a chunk's step, and keeps that if it is faster",) if job.options.compile else ()
