"""One mode, from its prologue to the last block."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from chunkjac._chunker import Pacer
from chunkjac._errors import ChunkjacError
from chunkjac._executor.experience import Experience
from chunkjac._executor.loop import Log, filled
from chunkjac._memory import Gauge, LiveBytes, OverBudget, keep_freed_memory
from chunkjac._modes import is_empty, result_bytes
from chunkjac._planner import Doubt, Job, Probe, select_mode, show_progress
from chunkjac._problem import CallWatcher, WriteWatcher
from chunkjac._programs import Usage
from chunkjac._sinks import Allowance
from chunkjac._units import format_bytes

# Of a default budget, which is half of what is free: so much may be made before it is counted exactly.
_UNCOUNTED_SHARE = 1 / 16


@dataclass(frozen=True, slots=True)
class Run:
    """Hold what all attempts of a job share.

    Attributes:
        job: What was asked for.
        known: What a plan knows of it.
        watch: Whether live bytes are counted.
        witness: What copies what the function writes to.
        experience: What earlier runs of the plan have left; it takes what this one leaves.
        tracker: What counts live bytes.
        gauge: What measures the process, if a report is wanted.
        started_s: When the job began.
    """

    job: Job
    known: Probe | None
    watch: bool
    witness: WriteWatcher
    experience: Experience
    tracker: LiveBytes
    gauge: Gauge | None
    started_s: float = field(default_factory=time.perf_counter)

    def watched(self) -> AbstractContextManager[Any]:
        """Count live bytes, if they are to be counted."""
        return self.tracker if self.watch else nullcontext()


class Attempt:
    """Run a job in the mode that is selected, from its prologue on.

    Attributes:
        run: What is run.
        mode: What makes the blocks.
        reasons: Why that one.
        limits: What chunk sizes have to keep to; there when the first block is.
        pacer: What says how large chunks are; as the limits.
        sink: Where blocks go; as the limits.
        log: What has happened so far.
    """

    def __init__(self, run: Run, excluded: Mapping[str, Doubt]) -> None:
        self.run = run
        self.log = Log()
        job, tracker = run.job, run.tracker
        tracker.restart_peak()
        programs, is_timed = run.experience.programs, not job.is_repeatable
        self._counts = True  # whether all that is made is looked at, rather than told
        if not job.trusting or job.device.type != "cpu" or job.problem.runs_compiled_code:
            with run.watched(), run.witness:
                self.mode, self.reasons = select_mode(job, excluded, programs, is_timed=is_timed)
            return
        keep_freed_memory()
        self._counts = False
        look = CallWatcher(run.witness, tracker if run.watch else None, int(_UNCOUNTED_SHARE * job.budget.n_bytes))
        job = replace(job, problem=job.problem.watched_by(look))
        self.mode, self.reasons = select_mode(job, excluded, programs, is_timed=is_timed, is_quick=True)
        look.tell(self.mode.outputs.n_nodes)

    def may_exclude(self, error: Exception) -> bool:
        """Tell whether another mode may do what this one could not, with nothing lost."""
        known = isinstance(error, ChunkjacError)
        return not self.log.chunk_sizes and not known and self.run.job.may_leave(self.mode.name)

    def steps(self) -> Iterator[slice]:
        """Allocate the result and fill it, step by step."""
        run, mode = self.run, self.mode
        job, known, tracker, learnt = run.job, run.known, run.tracker, run.experience.learnt
        self.limits = limits = job.limits(mode, tracker)
        if job.walled and limits.base.level_bytes > job.budget.n_bytes:
            raise OverBudget(f"the result takes {format_bytes(limits.base.result_bytes)}")
        with run.watched() if self._counts else nullcontext():
            self.sink = job.out.sink(mode, Allowance(job.room_bytes(tracker), tracker, keeps=not self._counts))
        if run.watch and not self._counts:
            tracker.assume(limits.base.result_bytes)
        self.pacer = (
            Pacer(limits, known.cost, known.chunk_size, checked=not run.watch, learnt=learnt)
            if known
            else Pacer(limits, learnt=learnt)
        )
        usage = Usage(
            exact_size=job.exact_size,
            room_bytes=limits.room_bytes,
            is_usual=not run.watch or self._fits(),
            is_counted=self.pacer.measures_new,
            is_repeatable=job.is_repeatable,
        )
        mode.use_programs(run.experience.programs, usage)
        yield from self._filled()

    def _filled(self) -> Iterator[slice]:
        """Compute what is missing; what is finished stays, whatever ends it."""
        job, mode, sink, gauge, total = self.run.job, self.mode, self.sink, self.run.gauge, self.mode.directions.n
        spans = sink.missing(total)
        try:
            n_ahead = sum(span.stop - span.start for span in spans)  # some sinks take directions several times
            n_before = max(0, total - n_ahead)
            with show_progress(job.progress, n_before + n_ahead, n_before) as show:

                def advance(size: int) -> None:
                    show(size)
                    if gauge is not None:
                        gauge.sample()

                if not is_empty(mode):
                    yield from filled(
                        sink,
                        mode,
                        self.pacer,
                        self.run.tracker,
                        self.log,
                        advance=advance,
                        halves_over_budget=job.options.chunk_size is None,
                        spans=spans,
                    )
        finally:
            sink.close()

    def _fits(self) -> bool:
        """Tell whether what earlier runs have held fits, and need not be counted again."""
        job, beside_bytes = self.run.job, self.run.experience.learnt.beside_bytes
        if job.return_report or not job.out.allocates_result or not job.budget.explicit or beside_bytes is None:
            return False
        return beside_bytes + result_bytes(self.mode) <= job.budget.n_bytes
