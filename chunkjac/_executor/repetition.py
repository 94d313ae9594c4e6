"""A plan's job at its own inputs, or at others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._planner import GivenToRun, Job, Probe, read_option
from chunkjac._sinks import read_out


@dataclass(frozen=True, slots=True)
class Repetition:
    """Hold a run of a plan.

    Attributes:
        job: What is asked for.
        known: What the plan knows of it.
    """

    job: Job
    known: Probe

    @classmethod
    def of(cls, job: Job, known: Probe, args: tuple[Any, ...], given: GivenToRun) -> Repetition:
        """Read what a plan is to be run with.

        Args:
            job: What was planned.
            known: What is known of it.
            args: Other arguments; none for those that were planned for.
            given: What the user gave.

        Raises:
            ArgumentTypeError, ArgumentError: That cannot be changed, or is not as planned.
        """
        unknown = sorted(given.keys() - GivenToRun.__annotations__)
        if unknown:
            raise ArgumentTypeError(
                f"run takes out, progress, resume and return_report, found {', '.join(unknown)}; plan again to change "
                "that."
            )
        if not args and job.device != job.problem.device:
            raise ArgumentError(f"this plan is for {job.device}: give run the arguments there, and let func use it.")
        read = {name: read_option(name, value) for name, value in given.items()}
        out, resume = job.out, read.get("resume", False)
        if "out" in read:
            out = read_out(read["out"], resume=resume, settings=job.options.settings, here=job.device)
        elif "resume" in read:
            out = out.resumed(resume)
        out = out.begun(job.options.chunk_size or known.steady_size)
        out.refuse(create_graph=job.options.create_graph, verify=job.options.n_checks)
        job = replace(
            job,
            problem=job.problem.with_args(args, job.device) if args else job.problem,
            out=out,
            progress=read.get("progress", job.progress),
            return_report=read.get("return_report", False),
        )
        result_bytes = known.summary.result_bytes if job.out.allocates_result else 0
        return cls(job, replace(known, cost=replace(known.cost, result_bytes=result_bytes)))
