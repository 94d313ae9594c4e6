"""One mode, from its prologue to the last block."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from chunkjac._chunker import ChunkRoom, Counting, Pacer
from chunkjac._errors import ChunkjacError
from chunkjac._executor.experience import Experience
from chunkjac._executor.loop import Log, filled
from chunkjac._executor.verification import verify_ahead
from chunkjac._memory import Gauge, LiveBytes, OverBudget, keep_freed_memory
from chunkjac._modes import Mode, is_empty
from chunkjac._planner import Doubt, Job, Probe, Slowness, select_mode, show_progress
from chunkjac._problem import CallWatcher, WriteWatcher
from chunkjac._programs import Usage
from chunkjac._sinks import Allowance
from chunkjac._units import format_bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Hold what all attempts of a job share.

    Attributes:
        job: What was asked for.
        known: What a plan knows of it.
        counting: How closely its memory is counted.
        watcher: What copies what the function writes to.
        experience: What earlier runs of the plan have left; it takes what this one leaves.
        tracker: What counts live bytes.
        gauge: What measures the process, if a report is wanted.
        started_s: When the job began.
    """

    job: Job
    known: Probe | None
    counting: Counting
    watcher: WriteWatcher
    experience: Experience
    tracker: LiveBytes
    gauge: Gauge | None
    started_s: float = field(default_factory=time.perf_counter)

    def check_limit(self) -> None:
        """Refuse to go on where a limit was exceeded, by something that could not be foreseen, however that was met."""
        if self.job.budget.explicit and self.tracker.highest_bytes > self.job.budget.n_bytes:
            raise OverBudget(f"something that func does took {format_bytes(self.tracker.highest_bytes)} unforeseen")

    def watched(self) -> AbstractContextManager[Any]:
        """Count live bytes, if they are to be counted."""
        return self.tracker if self.counting.counts else nullcontext()


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
        slowness: What warns where more memory would save most of the time.
        excluded: What is known against other modes.
        verdict: Whether the derivative is known to be right; there when the first block is.
    """

    def __init__(self, run: Run, excluded: Mapping[str, Doubt]) -> None:
        self.run = run
        self.log = Log()
        self.slowness = Slowness(run.job)
        self.excluded = dict(excluded)
        run.tracker.restart_peak()
        if run.counting.by_calls:
            self.mode, self.reasons = self._selected_by_calls(excluded)
        else:
            watched = replace(run.job, problem=run.job.problem.watched_by(run.job.problem.departures))
            with run.watched(), run.watcher:
                self.mode, self.reasons = self._selected(watched, excluded)

    def _selected(self, job: Job, excluded: Mapping[str, Doubt]) -> tuple[Mode, tuple[str, ...]]:
        """Return the mode to use, with its prologue run, and why."""
        return select_mode(job, self.run.counting, excluded, self.run.experience.programs)

    def _selected_by_calls(self, excluded: Mapping[str, Doubt]) -> tuple[Mode, tuple[str, ...]]:
        """Return the same where only calls are looked at."""
        run = self.run
        keep_freed_memory()
        tracker = run.tracker if run.counting.counts else None
        departures = run.job.problem.departures
        calls = CallWatcher(run.watcher, tracker, run.counting.uncounted_bytes, departures)
        mode, reasons = self._selected(replace(run.job, problem=run.job.problem.watched_by(calls)), excluded)
        calls.tell(mode.outputs.n_nodes)
        return mode, reasons

    def may_exclude(self, error: Exception) -> bool:
        """Tell whether another mode may do what this one could not, with nothing lost."""
        known = isinstance(error, ChunkjacError)
        return not self.log.chunk_sizes and not known and self.run.job.may_leave(self.mode.name)

    def writing(self) -> Iterator[slice]:
        """Allocate the result and fill it, step by step."""
        run, mode, job, counting, tracker = self.run, self.mode, self.run.job, self.run.counting, self.run.tracker
        self.slowness.warn_of_mode(mode, self.reasons)
        run.check_limit()
        self.verdict = verify_ahead(job, mode, tracker, counting)
        self.limits = limits = job.limits(mode, tracker, counting)
        if not counting.allows(limits.base.level_bytes):
            raise OverBudget(f"the result takes {format_bytes(limits.base.result_bytes)}")
        with nullcontext() if counting.by_calls else run.watched():
            self.sink = job.out.sink(mode, Allowance(job.left_bytes(tracker), tracker, keeps=counting.by_calls))
        if counting.by_calls and counting.counts:
            tracker.assume(limits.base.result_bytes)
        cost, chunk_size = (run.known.cost, run.known.chunk_size) if run.known else (None, None)
        self.pacer = Pacer(limits, cost, chunk_size, chunks=counting.chunks, learnt=run.experience.learnt)
        usage = Usage(
            exact_size=job.exact_size,
            room=ChunkRoom(limits.room_bytes),
            counts_again=counting.counts_again,
            is_counted=self.pacer.measures_new,
            is_timed=counting.is_timed,
        )
        mode.use_programs(run.experience.programs, usage)
        yield from self._filled()

    def _filled(self) -> Iterator[slice]:
        """Compute what is missing; what is finished stays, whatever ends it."""
        run, job, mode, sink, total = self.run, self.run.job, self.mode, self.sink, self.mode.directions.n
        spans = sink.missing(total)
        try:
            n_ahead = sum(span.stop - span.start for span in spans)  # some sinks take directions several times
            n_before = max(0, total - n_ahead)
            with show_progress(job.progress, n_before + n_ahead, n_before) as show:
                halves = job.options.chunk_size is None
                blocks = filled(sink, mode, self.pacer, run.tracker, self.log, halves_over_budget=halves, spans=spans)
                started_s = time.perf_counter()
                for chunk in () if is_empty(mode) else blocks:
                    show(chunk.stop - chunk.start)
                    started_s, latest_s = time.perf_counter(), time.perf_counter() - started_s
                    self.slowness.warn_of_chunks(self.limits, self.pacer, self.log.chunk_sizes, latest_s)
                    if run.gauge is not None:
                        run.gauge.sample()
                    run.check_limit()
                    yield chunk
        finally:
            sink.close()
