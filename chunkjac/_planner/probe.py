"""What a job will hold, found by a dry run on fake tensors: nothing is computed.

Fake tensors agree with real runs to the byte wherever they can run the function. They cannot where it reads values
(``.item()``, branches on values, ``.numpy()``); there small chunks run for real and are thrown away.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from chunkjac._chunker import TIGHT_PROBES, Cost, Limits
from chunkjac._errors import ChunkjacError, warn
from chunkjac._memory import LiveBytes, OverBudget, strict_fakes
from chunkjac._modes import Mode, ModeSummary, is_empty
from chunkjac._planner.doubts import NOTHING, Doubt, doubt_about
from chunkjac._planner.job import Job
from chunkjac._planner.plan import GivenToRun, Plan
from chunkjac._planner.samples import Samples
from chunkjac._planner.selection import select_mode
from chunkjac._problem import LeftAsFound, WriteWatcher, restored_attributes
from chunkjac._sinks import buffer_bytes


@dataclass(frozen=True, slots=True)
class Probe:
    """Hold what probing told.

    Attributes:
        summary: The mode that was selected.
        reasons: Why that one.
        cost: What the job costs.
        chunk_size: The size that its chunks should have.
        peak_bytes: What it holds with chunks of this size.
        certain: Whether values cannot change that: fake tensors have run it.
        steady_size: The size where all chunks have one, and lie in buffers until they are written.
        n_operations: How many operations a dry run was.
    """

    summary: ModeSummary
    reasons: tuple[str, ...]
    cost: Cost
    chunk_size: int
    peak_bytes: int
    certain: bool
    steady_size: int
    n_operations: int = 0

    def told(self, job: Job, n_chunks: int, runner: Runner) -> Plan:
        """Return the plan that this makes.

        Args:
            job: What was asked for.
            n_chunks: How many chunks there are.
            runner: What runs the plan.
        """
        summary, cost = self.summary, self.cost
        again = job.in_mode(summary.name)
        return Plan(
            mode=summary.name,
            rung=summary.rung,
            structure=None,
            sink=job.out.name,
            device=str(job.device),
            chunk_size=self.chunk_size,
            n_chunks=n_chunks,
            n_inputs=summary.n_inputs,
            n_outputs=summary.n_outputs,
            n_directions=summary.n_directions,
            result_bytes=summary.result_bytes,
            allocated_bytes=cost.result_bytes,
            prologue_bytes=cost.prologue_bytes,
            kept_bytes=cost.kept_bytes,
            seed_bytes=summary.seed_bytes * self.chunk_size,
            fixed_bytes=cost.kept_bytes + cost.fixed_bytes,
            direction_bytes=cost.direction_bytes,
            predicted_peak_bytes=self.peak_bytes,
            budget_bytes=job.budget.n_bytes,
            budget_source=job.budget.source,
            reasons=self.reasons,
            _runner=partial(runner, again, self),
        )


# What runs a plan: it is given the job, what is known of it, and the user's arguments and options.
Runner = Callable[[Job, Probe, tuple[Any, ...], GivenToRun], Any]


def dry_probe(job: Job, excluded: Mapping[str, Doubt] = NOTHING) -> Probe:
    """Probe on fake tensors, at last with a chunk of the very size that is chosen; where that is too much, with one.

    A direction alone may take a way that several cannot, and what an error names is what it takes.
    """
    probe = _probed(job, TIGHT_PROBES, excluded)
    probe = _with_less(job.in_mode(probe.summary.name), probe, TIGHT_PROBES)
    if probe.peak_bytes <= job.budget.n_bytes or job.exact_size is not None:
        return probe
    one = _one_by_one(job.in_mode(probe.summary.name))
    alone = _with_less(one, _probed(one, ()), ())
    return replace(alone, reasons=probe.reasons) if alone.peak_bytes < probe.peak_bytes else probe


def least_probe(job: Job) -> Probe:
    """Probe on fake tensors what one direction at a time takes, or the chunk size that is settled."""
    return _probed(_one_by_one(job), ())


def _one_by_one(job: Job) -> Job:
    """Return the job in chunks of one direction, unless their size is settled."""
    return replace(job, options=replace(job.options, chunk_size=job.exact_size or 1))


def _with_less(job: Job, probe: Probe, sizes: tuple[int, ...]) -> Probe:
    """Probe finite differences as they go on where there is no room: without a graph, and on lower rungs."""
    others = []
    if job.options.mode == "finite-difference" and job.problem.may_have_grad:
        job = replace(job, problem=replace(job.problem, may_have_grad=False))
        others.append(job)
    if job.options.mode == "finite-difference" and job.options.batching == "auto" and job.exact_size is None:
        others += [replace(job, options=replace(job.options, batching=batching)) for batching in ("vmap", "loop")]
    for other in others:
        if probe.peak_bytes > job.budget.n_bytes:
            with suppress(Exception):  # it takes gradients itself, or vmap cannot batch it
                probe = min(probe, _probed(other, sizes), key=lambda each: each.peak_bytes)
    return probe


def _probed(job: Job, sizes: tuple[int, ...], excluded: Mapping[str, Doubt] = NOTHING) -> Probe:
    """Probe on fake tensors, in some sizes first."""
    with _on_fakes(job) as (faked, tracker), tracker:
        return _dry_probe(faked, excluded, tracker, sizes)


@contextmanager
def _on_fakes(job: Job) -> Iterator[tuple[Job, LiveBytes]]:
    """Give the job on fake tensors, and what counts them.

    Modules get their attributes back, so that what they cache is never a fake. A function that keeps fakes elsewhere is
    warned of; their use in a real run is an error (see the sinks).
    """
    with strict_fakes() as fake:
        limit_bytes = job.budget.n_bytes if job.budget.explicit else None
        tracker = LiveBytes(job.problem.device, limit_bytes=limit_bytes, fake=fake, stands_for=job.device)
        with restored_attributes(job.problem.modules):
            inputs = [fake.from_tensor(x) for x in job.problem.inputs]
            yield replace(job, problem=job.problem.with_inputs(inputs)), tracker
    if tracker.live_bytes:
        gc.collect()
    if tracker.live_bytes:
        warn(
            "func has kept fake tensors from planning, outside of the modules that it can be seen to use. If that is a "
            "cache that it reads again, clear it, or its next call fails; call func once before planning it."
        )


def _dry_probe(job: Job, excluded: Mapping[str, Doubt], tracker: LiveBytes, sizes: tuple[int, ...]) -> Probe:
    """Select a mode on fake tensors; measure it alone, since a plan runs it alone, in some sizes and the chosen one."""
    counting = replace(job.counting(), by_calls=False, is_timed=False, is_quick=False)
    watcher = WriteWatcher()  # what it copies is alive until the end, and counts
    with watcher:
        mode, reasons = select_mode(job, counting, excluded)
        if job.options.mode == "auto":
            name = mode.name
            del mode
            tracker.restart_peak()
            mode, _ = select_mode(job.in_mode(name), counting)
    job.out.check(mode)
    limits = job.limits(mode, tracker, counting)
    if is_empty(mode):
        return Probe(ModeSummary.of(mode), reasons, limits.base, 1, limits.base.prologue_bytes, True, 1)
    samples = Samples(mode, tracker, job.out.is_repeatable)
    samples.take_some(sizes)
    while True:
        cost = limits.fit(samples.held_bytes, samples.margin) if samples.held_bytes else limits.base
        most = limits.choose(cost, limits.n_directions)
        size = min(most, limits.start_size(cost) or most)  # a run begins with that, and chunks do not get faster soon
        if size in samples.held_bytes:
            break
        samples.take(size)
    peak_bytes = max(cost.prologue_bytes, cost.level_bytes + samples.held_bytes[size])
    if mode.name == "finite-difference":  # its columns are checked at points of their own
        mode.release()  # the last sample may have been larger
        tracker.restart_peak()
        mode.is_confirmed()
        peak_bytes = max(peak_bytes, cost.result_bytes + tracker.peak_bytes)
    return Probe(
        summary=ModeSummary.of(mode),
        reasons=(*reasons, *mode.reasons),
        cost=cost,
        chunk_size=size,
        peak_bytes=peak_bytes,
        certain=True,
        steady_size=steady_size(mode, limits, cost, size, has_buffers=job.out.is_repeatable),
        n_operations=tracker.n_operations,
    )


def real_probe(job: Job, excluded: Mapping[str, Doubt] = NOTHING) -> Probe:
    """Probe with small real chunks; OverBudget is raised if not even one direction fits."""
    with LeftAsFound(job.problem) as watcher:
        job = replace(job, problem=job.problem.drawing(again=job.problem.randomness == "same"))
        return _real_probe(job, excluded, watcher)


def _real_probe(job: Job, excluded: Mapping[str, Doubt], watcher: WriteWatcher) -> Probe:
    """Probe the first mode that can run the function."""
    here, n_bytes, is_guess = job.problem.device, job.budget.n_bytes, not job.budget.explicit
    tracker = LiveBytes(here, limit_bytes=n_bytes, is_guess=is_guess, stands_for=job.device)
    counting = replace(job.counting(), by_calls=False, is_quick=False)
    doubts = dict(excluded)
    while True:
        with tracker:
            with watcher:
                mode, reasons = select_mode(job, counting, doubts)
            limits = job.limits(mode, tracker, counting)
            try:
                samples = Samples(mode, tracker, job.out.is_repeatable)
                samples.take_some(TIGHT_PROBES)
                break
            except Exception as error:
                if isinstance(error, (OverBudget, ChunkjacError)) or not job.may_leave(mode.name):
                    raise
                doubts[mode.name] = doubt_about(mode.name, error)
            del mode
            tracker.restart_peak()
    cost = limits.fit(samples.held_bytes, samples.margin)
    size = limits.choose(cost, limits.n_directions)
    steady = steady_size(mode, limits, cost, size, has_buffers=job.out.is_repeatable)
    peak_bytes = cost.peak_bytes(size)
    return Probe(
        ModeSummary.of(mode), (*reasons, *mode.reasons), cost, size, peak_bytes, certain=False, steady_size=steady
    )


def steady_size(mode: Mode, limits: Limits, cost: Cost, size: int, *, has_buffers: bool) -> int:
    """Return the size for a job whose chunks all have one, and lie in buffers: those that the cost has, or others."""
    beside_bytes = 0 if has_buffers else buffer_bytes(mode)
    roomy = replace(cost, direction_bytes=cost.direction_bytes + beside_bytes)
    fitting = limits.choose(roomy, limits.n_directions) if roomy.smallest_bytes <= limits.budget_bytes else 1
    return max(1, min(size, fitting, limits.start_size(cost) or size))
