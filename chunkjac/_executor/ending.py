"""What is told and kept when the blocks are there: checks, warnings, the report."""

from __future__ import annotations

import time
from dataclasses import replace

from chunkjac._errors import RungWarning, warn
from chunkjac._executor.attempt import Attempt
from chunkjac._executor.result import Result
from chunkjac._executor.verification import estimated_error, verify_numbers, warn_of_nan
from chunkjac._modes import ModeSummary, Verdict, check_columns, is_empty
from chunkjac._planner import Probe, Report, Runner, steady_size
from chunkjac._sinks import FileSink, TensorSink


def ended(attempt: Attempt, runner: Runner) -> Result:
    """Return what the job gives, when all blocks are written.

    Args:
        attempt: What has written them.
        runner: What runs the report's plan.

    Raises:
        WrongError: The Jacobian is not what the referees tell.
    """
    run, mode, job = attempt.run, attempt.mode, attempt.run.job
    error = estimated_error(mode, run.tracker) if job.return_report and job.estimates_error else None
    mode.close()
    verdict = _verdict(attempt)
    _warn(attempt)
    elapsed_s = time.perf_counter() - run.started_s
    rise_bytes = run.gauge.highest_bytes if run.gauge is not None else 0
    _keep(attempt, elapsed_s)
    report = None
    if job.return_report or job.options.create_graph:
        probe = _measured(attempt, verdict)
        report = Report(
            plan=probe.told(job, len(attempt.log.chunk_sizes), runner),
            peak_bytes=run.tracker.highest_bytes,
            process_rise_bytes=rise_bytes,
            growth_bytes=attempt.log.growth_bytes,
            elapsed_s=elapsed_s,
            chunk_sizes=tuple(attempt.log.chunk_sizes),
            n_retries=attempt.log.n_retries,
            verified_error=verdict.error,
            verified=verdict.reason,
            estimated_error=error,
        )
    return Result(attempt.sink.result(), run.watcher.lasting(mode.outputs.aux), report, attempt.sink, mode.outputs)


def _verdict(attempt: Attempt) -> Verdict:
    """Check the Jacobian, if that was asked for, or is no number somewhere."""
    run, mode, sink = attempt.run, attempt.mode, attempt.sink
    options = run.job.options
    if is_empty(mode) or options.verify == 0:
        return attempt.verdict
    if isinstance(sink, FileSink):
        with run.watched():
            warn_of_nan(sink, mode)
    if not isinstance(sink, TensorSink):
        return attempt.verdict
    if not options.n_checks and sink.is_finite:
        return attempt.verdict
    with run.watched():
        if options.n_checks:
            return check_columns(mode, sink.columns_along, options.n_checks, has_bounds=run.job.bounds is not None)
        return verify_numbers(sink, mode, attempt.verdict, may_leave=run.job.may_leave(mode.name))


def _warn(attempt: Attempt) -> None:
    """Warn of memory that is kept, of a slower rung, and of what cannot be compiled."""
    mode = attempt.mode
    if attempt.log.symptom:
        warn(attempt.log.symptom)
    copied = run.job.problem.departures.copied if (run := attempt.run).job.options.verify != 0 else {}
    if copied and mode.name != "finite-difference":
        warn(
            f"func makes constants of tensors that have derivatives ({', '.join(copied)} of a list), as in torch.func: "
            "what depends on them has none. torch.stack keeps them; verify=0 says nothing of it."
        )
    wrong = [doubt.why for doubt in attempt.excluded.values() if doubt.is_wrong]
    if wrong:
        warn(f"mode='auto' has taken {mode.name} mode: {' '.join(wrong)} verify=0 takes it as it is.", RungWarning)
    if mode.fell:
        warn(f"{mode.name} mode runs by {mode.rung}, which is slower: {'; '.join(mode.reasons)}.", RungWarning)
    trouble = attempt.run.experience.programs.new_trouble()
    if trouble:
        warn(f"compile=True has no effect: {trouble}.", RungWarning)


def _keep(attempt: Attempt, elapsed_s: float) -> None:
    """Keep for the next run what this one has told."""
    run = attempt.run
    run.experience.programs.n_runs += 1
    run.experience.programs.spent_s += elapsed_s
    run.experience.shortcut.learn(attempt.mode, elapsed_s, is_plain=_is_plain(attempt))
    if run.counting.counts:
        run.experience.learnt.note_peak(run.tracker.highest_bytes - attempt.limits.base.result_bytes)


def _is_plain(attempt: Attempt) -> bool:
    """Tell whether a run was in one chunk, of a function that wrote nothing, drew nothing and hid nothing."""
    run, mode = attempt.run, attempt.mode
    problem, options, told = run.job.problem, run.job.options, run.job.problem.departures
    return not (
        mode.name not in ("reverse", "forward")
        or (run.job.budget.explicit or run.job.device.type != "cpu" or options.create_graph)
        or options.verify != "auto"
        or options.chunk_size is not None
        or options.randomness != "error"
        or options.compile
        or (problem.has_aux or problem.draws.drew)
        or (attempt.excluded or mode.fell)
        or (told.hidden or told.copied)
        or (run.watcher.written or run.watcher.moved)
        or attempt.log.chunk_sizes != [mode.directions.n]
    )


def _measured(attempt: Attempt, verdict: Verdict) -> Probe:
    """Return what the run has told of the job, as a probe would."""
    run, mode, pacer = attempt.run, attempt.mode, attempt.pacer
    largest = max(attempt.log.chunk_sizes, default=0)  # a probe, where those were larger than what is left
    size = max(1, min(pacer.chunk_size or largest, largest))
    in_files = replace(pacer.cost, result_bytes=0)  # there the result is allocated on the disk
    records = run.experience.programs.records.values()
    is_idle = run.job.options.compile and not any(record.forms for record in records)
    asked = verdict.reason if run.job.options.n_checks else ""
    notes = [asked, "nothing is compiled: no linear program runs" if is_idle else ""]
    reasons = (*(run.known.reasons if run.known else attempt.reasons), *filter(None, notes), *mode.reasons)
    return Probe(
        summary=ModeSummary.of(mode),
        reasons=tuple(dict.fromkeys(reasons)),
        cost=pacer.cost,
        chunk_size=size,
        peak_bytes=_predicted_bytes(attempt),
        certain=False,
        steady_size=steady_size(mode, attempt.limits, in_files, size, has_buffers=run.job.out.is_repeatable),
    )


def _predicted_bytes(attempt: Attempt) -> int:
    """Return what was known of the peak before chunks were computed: of programs, how they are laid out."""
    cost, log = attempt.pacer.cost, attempt.log
    by_program = not log.most_free and log.program_bytes
    return max(log.program_bytes, cost.prologue_bytes if by_program else cost.peak_bytes(log.most_free))
