"""A job run to its result: one mode after the other, until one has done it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from chunkjac._compilers import outside_of_graphs
from chunkjac._errors import CarriedError, FunctionError, WrongError
from chunkjac._executor.attempt import Attempt, Run
from chunkjac._executor.ending import ended
from chunkjac._executor.experience import Experience
from chunkjac._executor.recomputation import connected
from chunkjac._executor.repetition import Repetition
from chunkjac._executor.result import Result, Writing
from chunkjac._memory import Gauge, OverBudget, is_out_of_memory, reclaim, text_of
from chunkjac._planner import Doubt, GivenToRun, Job, Probe, doubt_about, over_budget
from chunkjac._problem import LeftAsFound


@torch.inference_mode(False)
def run_job(job: Job, known: Probe | None = None, experience: Experience | None = None) -> Result:
    """Compute the Jacobian, and leave everything else as it was.

    Args:
        job: What was asked for.
        known: What a plan knows of it.
        experience: What earlier runs of the plan have left; it takes what this one leaves.

    Raises:
        BudgetError: One direction, or the chunk size that was asked for, does not fit.
    """
    experience = experience or Experience.of(compiles=job.options.compile, is_kept=job.return_report)
    writing = writing_of(job, known, experience, LeftAsFound(job.problem))
    try:
        while True:
            try:
                next(writing)
            except StopIteration as end:
                result: Result = end.value
                return result
    except CarriedError as carried:
        error = carried.error
    raise error


@outside_of_graphs("Plan.run")
def run_planned(experience: Experience, job: Job, known: Probe, args: tuple[Any, ...], given: GivenToRun) -> Any:
    """Run a plan, at its own inputs or at others.

    Args:
        experience: What its runs have left.
        job: What was planned.
        known: What is known of it.
        args: Other arguments; none for those that were planned for.
        given: What the user gave.
    """
    again = Repetition.of(job, known, args, given)
    if experience.shortcut.is_open(again.job, experience.programs):
        jacobian = experience.shortcut.jacobian(again.job, experience.programs)
        if jacobian is not None:
            return jacobian
    return run_job(again.job, again.known, experience).deliver(again.job)


def writing_of(job: Job, known: Probe | None, experience: Experience, found: LeftAsFound) -> Writing:
    """Run a job step by step, and connect the result to its graph if that was asked for.

    Args:
        job: What was asked for.
        known: What a plan knows of it.
        experience: What earlier runs of the plan have left.
        found: What there was before; it is put back at the end.
    """
    with found as watcher:
        again = job.options.create_graph or job.problem.randomness == "same"  # the backward pass draws the same again
        counting = job.counting(experience.foreseen(known))
        job = replace(job, problem=job.problem.drawing(again=again))
        gauge = Gauge.of(job.device) if job.return_report else None
        run = Run(job, known, counting, watcher, experience, job.tracker(counting), gauge)
        found.room = run.watched()
        result = yield from _writing(run)
    return connected(result, job, watcher) if job.options.create_graph else result


def _writing(run: Run) -> Writing:
    """Try one mode after the other."""
    excluded: dict[str, Doubt] = {}
    while True:
        attempt = symptom = None
        try:
            attempt = Attempt(run, excluded)
            yield from attempt.writing()
            return ended(attempt, partial(run_planned, run.experience))
        except WrongError as error:
            assert attempt is not None
            if not run.job.may_leave(attempt.mode.name):
                raise FunctionError(f"{error} verify=0 takes it as it is.") from None
            excluded[attempt.mode.name] = Doubt(str(error), fits=True, is_wrong=True)
            again, ran_out = True, False
        except Exception as error:
            again = attempt is not None and attempt.may_exclude(error)
            if attempt is not None and again:
                excluded[attempt.mode.name] = doubt_about(attempt.mode.name, error)
            elif not isinstance(error, OverBudget):
                raise
            failure, ran_out = text_of(error), is_out_of_memory(error)
            symptom = attempt.log.symptom if attempt is not None else None
        attempt = None
        reclaim(run.job.device, ran_out=ran_out)  # its tensors go before the next attempt, or the dry run, begins
        if not again:
            raise over_budget(run.job, failure, symptom)
        run = replace(run, job=run.job.in_mode("auto"), known=None)  # what is known is of another mode
