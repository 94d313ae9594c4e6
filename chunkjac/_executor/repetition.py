"""A plan's job at its own inputs, or at others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._planner import Job, Probe
from chunkjac._sinks import read_out

_RUN_OPTIONS = frozenset({"out", "progress", "resume", "return_report"})


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
    def of(cls, job: Job, known: Probe, args: tuple[Any, ...], options: dict[str, Any]) -> Repetition:
        """Read what a plan is to be run with.

        Args:
            job: What was planned.
            known: What is known of it.
            args: Other arguments; none for those that were planned for.
            options: What the user gave.

        Raises:
            ArgumentTypeError, ArgumentError: That cannot be changed, or is not as planned.
        """
        if not options.keys() <= _RUN_OPTIONS:
            unknown = ", ".join(sorted(options.keys() - _RUN_OPTIONS))
            raise ArgumentTypeError(
                f"run takes out, progress, resume and return_report, found {unknown}; plan again to change that."
            )
        if not args and job.device != job.problem.device:
            raise ArgumentError(f"this plan is for {job.device}: give run the arguments there, and let func use it.")
        out = job.out
        resume = options.get("resume", False)
        if "out" in options:
            out = read_out(options["out"], resume=resume, settings=job.options.settings, here=job.device)
        elif "resume" in options:
            out = out.resumed(resume)
        out = out.begun(job.options.chunk_size or known.steady_size, job.problem.devices)
        out.refuse(create_graph=job.options.create_graph, verify=job.options.verify)
        job = replace(
            job,
            problem=job.problem.with_args(args, job.device) if args else job.problem,
            out=out,
            progress=options.get("progress", job.progress),
            return_report=options.get("return_report", False),
        )
        result_bytes = known.facts.result_bytes if job.out.allocates_result else 0
        return cls(job, replace(known, cost=replace(known.cost, result_bytes=result_bytes)))

    def is_ample(self, beside_bytes: int) -> bool:
        """Tell whether nothing need be counted, since what is expected fits many times.

        What holds the same whatever the values, and a quarter of the device's default at most, needs no watching: a
        plain graph may keep twice as much. A limit that somebody set is watched: captured state may have changed.
        Where values may change it, a run has to have been counted, and there must be more room.

        Args:
            beside_bytes: The most that a counted run has held beside the result; 0 before the first.
        """
        known = self.known
        counted_bytes = beside_bytes and 4 * (beside_bytes + known.cost.result_bytes)
        expected_bytes = known.cost.peak_bytes(known.chunk_size) if known.certain else counted_bytes
        return self.job.trusting and 0 < 4 * expected_bytes <= self.job.budget.n_bytes
