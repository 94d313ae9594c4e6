"""A job run to its result."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from chunkjac._chunker import Limits, Pacer
from chunkjac._errors import (
    ArgumentError,
    ArgumentTypeError,
    CarriedError,
    ChunkjacError,
    FunctionError,
    RungWarning,
    warn,
)
from chunkjac._executor.accuracy import Verdict, estimated_error, verify
from chunkjac._executor.experience import Experience
from chunkjac._executor.loop import Log, filled
from chunkjac._executor.recipe import Recipe
from chunkjac._executor.recomputation import sources_of, with_graph
from chunkjac._memory import Gauge, LiveBytes, OverBudget, keep_freed_memory, reclaim
from chunkjac._modes import ModeSummary, is_empty, n_directions, random_tangent, result_bytes
from chunkjac._planner import (
    Doubt,
    Job,
    Plan,
    Probe,
    Report,
    doubt_about,
    over_budget,
    select_mode,
    show_progress,
    steady_size,
)
from chunkjac._problem import CallWatcher, LeftAsFound, RandomState, WriteWatcher
from chunkjac._programs import Records, Usage
from chunkjac._sinks import ResultSink, TensorSink, check_with, read_out, sink_for, sink_name
from chunkjac._store import Target
from chunkjac._units import format_bytes

# Of a default budget, which is half of what is free: so much may be made before it is counted exactly.
_UNCOUNTED_SHARE = 1 / 16

_RUN_OPTIONS = frozenset({"out", "progress", "resume", "return_report"})


@dataclass(frozen=True, slots=True)
class Result:
    """Hold what a job gives.

    Attributes:
        jacobian: The tree of tensors; ``None`` where a callback has had it.
        aux: The function's auxiliary result.
        report: What happened, if it is wanted.
        sink: Where the Jacobian is.
    """

    jacobian: Any
    aux: Any
    report: Report | None
    sink: ResultSink

    def deliver(self, job: Job) -> Any:
        """Return what the user gets: the Jacobian, and what else the job asks for."""
        aux = [self.aux] if job.problem.has_aux else []
        parts = (self.jacobian, *aux, *([self.report] if job.return_report else []))
        return parts if len(parts) > 1 else self.jacobian


# A job step by step: what was written last is yielded; nothing is computed before it is asked for.
Writing = Generator[slice, None, Result]


@torch.inference_mode(False)
def run_job(
    job: Job, known: Probe | None = None, *, watch: bool = True, experience: Experience | None = None
) -> Result:
    """Compute the Jacobian, and leave everything else as it was.

    Args:
        job: What was asked for.
        known: What a plan knows of it.
        watch: Whether live bytes are counted, which takes time; without it, the report has no peak.
        experience: What earlier runs of the plan have left; it takes what this one leaves.

    Raises:
        BudgetError: One direction, or the chunk size that was asked for, does not fit.
    """
    experience = experience or Experience.of(compiles=job.compile, is_kept=job.return_report)
    steps = steps_of(job, known, watch, experience, LeftAsFound(job.problem))
    try:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                result: Result = end.value
                return result
    except CarriedError as carried:
        error = carried.error
    raise error


def steps_of(job: Job, known: Probe | None, watch: bool, experience: Experience, found: LeftAsFound) -> Writing:
    """Run a job step by step, and connect the result to its graph if that was asked for.

    Args:
        job: What was asked for.
        known: What a plan knows of it.
        watch: Whether live bytes are counted.
        experience: What earlier runs of the plan have left.
        found: What there was before; it is put back at the end.
    """
    with found as witness:
        if job.create_graph or job.problem.randomness == "same":  # the backward pass draws the same again
            job = replace(job, problem=job.problem.at_random_state())
        result = yield from _steps(job, known, watch, witness, experience)
    if not job.create_graph or result.report is None:
        return result
    if result.report.plan.mode == "finite-difference":
        _check_constant(result.jacobian, result.report.plan)
        return result
    sources = sources_of(job.problem.in_its_graph().inputs, witness.captured)
    if not sources:
        return result
    assert isinstance(result.sink, TensorSink)  # checked where options are read
    products = result.sink.columns_along(random_tangent(job.problem.leaves))
    recipe = Recipe.of(job, result.report.plan, witness, products)
    aux = recipe.aux() if job.problem.has_aux else None
    return replace(result, jacobian=with_graph(result.jacobian, recipe, sources), aux=aux)


def _steps(job: Job, known: Probe | None, watch: bool, witness: WriteWatcher, experience: Experience) -> Writing:
    """Try one mode after the other."""
    started_s = time.perf_counter()
    gauge = Gauge.of(job.device) if job.return_report else None
    tracker = job.tracker()
    excluded: dict[str, Doubt] = {}
    while True:
        attempt = None
        log = Log()
        try:
            attempt = _Attempt(job, excluded, tracker, log, watch, witness, experience.programs)
            return (yield from attempt.steps(known, started_s, gauge, experience))
        except Exception as error:
            again = attempt is not None and attempt.may_exclude(error)
            if attempt is not None and again:
                name = attempt.mode.name
                excluded[name] = doubt_about(name, error)
            elif not isinstance(error, OverBudget):
                raise
            failure = str(error)
        attempt = None
        reclaim(job.device)  # its tensors go before the next attempt, or the dry run, begins
        if not again:
            raise over_budget(job, failure, log.symptom)


def _check_constant(jacobian: Any, plan: Plan) -> None:
    """Refuse a Jacobian that cannot be differentiated, unless it is constant: then it is zero everywhere."""
    if any(bool(leaf.any()) for leaf in tree_leaves(jacobian)):
        raise FunctionError(
            f"func has no derivatives ({'; '.join(plan.reasons)}), so its Jacobian cannot be "
            "differentiated; give create_graph=False, or call it under torch.no_grad()."
        )


class _Attempt:
    """Run a job in the mode that is selected, from its prologue on."""

    def __init__(
        self,
        job: Job,
        excluded: Mapping[str, Doubt],
        tracker: LiveBytes,
        log: Log,
        watch: bool,
        witness: WriteWatcher,
        programs: Records,
    ) -> None:
        self._job = job
        self._witness = witness
        self._tracker = tracker
        self._log = log
        self._watch = watch
        tracker.restart_peak()
        self._counts = True  # whether all that is made is looked at, rather than told
        if not job.trusting or job.device.type != "cpu" or job.problem.runs_compiled_code:
            with self._watched(), witness:
                self.mode, self._reasons = select_mode(job.problem, job.request, excluded, programs)
            return
        keep_freed_memory()
        self._counts = False
        look = CallWatcher(witness, tracker if watch else None, int(_UNCOUNTED_SHARE * job.budget.n_bytes))
        request = replace(job.request, is_quick=True)
        self.mode, self._reasons = select_mode(job.problem.watched_by(look), request, excluded, programs)
        look.tell(self.mode.outputs.n_nodes)

    def may_exclude(self, error: Exception) -> bool:
        """Tell whether another mode may do what this one could not, with nothing lost."""
        known = isinstance(error, ChunkjacError)
        return not self._log.chunk_sizes and not known and self._job.request.may_leave(self.mode.name)

    def steps(self, known: Probe | None, started_s: float, gauge: Gauge | None, experience: Experience) -> Writing:
        """Allocate the result and fill it, step by step."""
        job, mode, tracker = self._job, self.mode, self._tracker
        limits = job.limits(mode, tracker)
        if job.walled and limits.base.level_bytes > job.budget.n_bytes:
            raise OverBudget(f"the result takes {format_bytes(limits.base.result_bytes)}")
        with self._watched() if self._counts else nullcontext():
            sink = sink_for(mode, job.out, tracker, job.room_bytes(tracker), keeps=not self._counts)
        if self._watch and not self._counts:
            tracker.assume(limits.base.result_bytes)
        pacer = (
            Pacer(limits, known.cost, known.chunk_size, checked=not self._watch, learnt=experience.learnt)
            if known
            else Pacer(limits, learnt=experience.learnt)
        )
        usage = Usage(
            exact_size=job.exact_size,
            room_bytes=limits.room_bytes,
            is_usual=not self._watch or self._fits(experience),
            is_counted=pacer.measures_new,
            is_repeatable=job.is_repeatable,
        )
        mode.use_programs(experience.programs, usage)
        yield from self._filled(sink, pacer, gauge)
        error = estimated_error(mode, tracker) if job.return_report else None
        mode.close()
        verdict = Verdict(None, "")
        if job.verify and not is_empty(mode):
            assert isinstance(sink, TensorSink)  # checked where options are read
            with self._watched():
                verdict = verify(sink, mode, job.verify, has_bounds=job.request.bounds is not None)
        if self._log.symptom:
            warn(self._log.symptom)
        if mode.fell:
            warn(f"{mode.name} mode runs by {mode.rung}, which is slower: {'; '.join(mode.reasons)}.", RungWarning)
        trouble = experience.programs.new_trouble()
        if trouble:
            warn(f"compile=True has no effect: {trouble}.", RungWarning)
        elapsed_s = time.perf_counter() - started_s
        rise_bytes = gauge.highest_bytes if gauge is not None else 0
        uncompiled = "nothing is compiled: no linear program runs"
        idle = job.compile and not any(record.forms for record in experience.programs.records.values())
        notes = [verdict.reason, uncompiled if idle else ""]
        reasons = (*(known.reasons if known else self._reasons), *filter(None, notes))
        experience.programs.n_runs += 1
        experience.programs.spent_s += elapsed_s
        if self._watch:
            experience.learnt.note_peak(tracker.highest_bytes - limits.base.result_bytes)
        report = None
        if job.return_report or job.create_graph:
            report = self._report(limits, pacer, elapsed_s, rise_bytes, reasons, experience)
            report = replace(report, verified_error=verdict.error, estimated_error=error)
        return Result(sink.result(), self._witness.lasting(mode.outputs.aux), report, sink)

    def _filled(self, sink: ResultSink, pacer: Pacer, gauge: Gauge | None) -> Iterator[slice]:
        """Compute what is missing; what is finished stays, whatever ends it."""
        job, mode, total = self._job, self.mode, n_directions(self.mode)
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
                        pacer,
                        self._tracker,
                        self._log,
                        advance=advance,
                        halves_over_budget=job.chunk_size is None,
                        spans=spans,
                    )
        finally:
            sink.close()

    def _fits(self, experience: Experience) -> bool:
        """Tell whether what earlier runs have held fits, and need not be counted again."""
        job, beside_bytes = self._job, experience.learnt.beside_bytes
        if job.return_report or job.out is not None or not job.budget.explicit or beside_bytes is None:
            return False
        return beside_bytes + result_bytes(self.mode) <= job.budget.n_bytes

    def _watched(self) -> AbstractContextManager[Any]:
        """Count live bytes, if they are to be counted."""
        return self._tracker if self._watch else nullcontext()

    def _report(
        self,
        limits: Limits,
        pacer: Pacer,
        elapsed_s: float,
        rise_bytes: int,
        reasons: tuple[str, ...],
        experience: Experience,
    ) -> Report:
        """Return plan and measurement side by side."""
        sizes = tuple(self._log.chunk_sizes)
        largest = max(sizes, default=0)  # a probe, where those were larger than what is left
        size = max(1, min(pacer.chunk_size or largest, largest))
        in_files = replace(pacer.cost, result_bytes=0)  # there the result is allocated on the disk
        probe = Probe(
            facts=ModeSummary.of(self.mode),
            reasons=tuple(dict.fromkeys((*reasons, *self.mode.reasons))),
            cost=pacer.cost,
            chunk_size=size,
            peak_bytes=pacer.cost.peak_bytes(largest),
            certain=False,
            steady_size=steady_size(self.mode, limits, in_files, size),
        )
        plan = describe(self._job, probe, len(sizes), experience)
        return Report(
            plan=plan,
            peak_bytes=self._tracker.highest_bytes,
            process_rise_bytes=rise_bytes,
            growth_bytes=self._log.growth_bytes,
            elapsed_s=elapsed_s,
            chunk_sizes=sizes,
            n_retries=self._log.n_retries,
        )


def describe(job: Job, probe: Probe, n_chunks: int, experience: Experience | None = None) -> Plan:
    """Put a plan's numbers together."""
    facts, cost, chunk_size = probe.facts, probe.cost, probe.chunk_size
    again = replace(job, request=replace(job.request, mode=facts.name))
    experience = experience or Experience.of(compiles=job.compile, is_kept=True)
    return Plan(
        mode=facts.name,
        rung=facts.rung,
        structure=None,
        sink=sink_name(job.out),
        device=str(job.device),
        chunk_size=chunk_size,
        n_chunks=n_chunks,
        n_inputs=facts.n_inputs,
        n_outputs=facts.n_outputs,
        n_directions=facts.n_directions,
        result_bytes=facts.result_bytes,
        allocated_bytes=cost.result_bytes,
        prologue_bytes=cost.prologue_bytes,
        kept_bytes=cost.kept_bytes,
        seed_bytes=facts.seed_bytes * chunk_size,
        fixed_bytes=cost.kept_bytes + cost.fixed_bytes,
        direction_bytes=cost.direction_bytes,
        predicted_peak_bytes=probe.peak_bytes,
        budget_bytes=job.budget.n_bytes,
        budget_source=job.budget.source,
        reasons=probe.reasons,
        _runner=partial(_run_planned, again, probe, experience),
    )


def _run_planned(job: Job, known: Probe, experience: Experience, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run a plan, at its own inputs or at others."""
    if not options.keys() <= _RUN_OPTIONS:
        unknown = ", ".join(sorted(options.keys() - _RUN_OPTIONS))
        raise ArgumentTypeError(
            f"run takes out, progress, resume and return_report, found {unknown}; plan again to change that."
        )
    if not args and job.device != job.problem.device:
        raise ArgumentError(f"this plan is for {job.device}: give run the arguments there, and let func use it.")
    out = job.out
    if "out" in options or "resume" in options:
        given = options.get("out", out.path if isinstance(out, Target) else out)
        out = read_out(given, resume=options.get("resume", False), settings=job.settings, here=job.device)
    if isinstance(out, Target):
        out = out.begun(job.chunk_size or known.steady_size, RandomState.now(job.problem.devices))
    check_with(out, create_graph=job.create_graph, verify=job.verify)
    problem = job.problem.with_args(args, job.device) if args else job.problem
    job = replace(
        job,
        problem=problem,
        out=out,
        progress=options.get("progress", job.progress),
        return_report=options.get("return_report", False),
    )
    result_bytes = known.facts.result_bytes if job.out is None else 0
    known = replace(known, cost=replace(known.cost, result_bytes=result_bytes))
    # What holds the same whatever the values, and a quarter of the device's default at most, needs no watching: a plain
    # graph may keep twice as much. A limit that somebody set is watched: captured state may have changed.
    # Where values may change it, a run has to have been counted, and there must be more room.
    beside_bytes = experience.learnt.beside_bytes or 0
    counted_bytes = beside_bytes and 4 * (beside_bytes + result_bytes)
    expected_bytes = known.cost.peak_bytes(known.chunk_size) if known.certain else counted_bytes
    ample = 0 < 4 * expected_bytes <= job.budget.n_bytes
    return run_job(job, known, watch=not (job.trusting and ample), experience=experience).deliver(job)
