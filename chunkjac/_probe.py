"""What a job will hold, found by a dry run on fake tensors: nothing is computed.

Fake tensors agree with real runs to the byte wherever they can run the function (measured
on 28 of 32 pairs of function and mode). They cannot where the function reads values
(``.item()``, branches on values, ``.numpy()``); there the same probes run for real.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch._subclasses.fake_tensor import FakeTensorMode

from chunkjac._memory import LiveBytes, OverBudget
from chunkjac._modes import Mode, least_direction_bytes, n_directions
from chunkjac._planner import Cost, fit_chunks
from chunkjac._problem import Problem
from chunkjac._select import Doubt, Request, select_mode
from chunkjac._sinks import result_bytes

_SIZES = (2, 2, 8)


@dataclass(frozen=True, slots=True)
class Probe:
    """Hold what probing told.

    Attributes:
        mode: The mode that was selected; its tensors may be fake.
        reasons: Why that one.
        cost: What it costs, the result included.
        scratch: Whether operations ran that work in memory no tensor shows.
    """

    mode: Mode
    reasons: tuple[str, ...]
    cost: Cost
    scratch: bool


def dry_probe(problem: Problem, request: Request, excluded: Mapping[str, Doubt]) -> Probe:
    """Probe on fake tensors."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        tracker = LiveBytes(problem.device, fake=fake)
        fakes = problem.with_inputs([fake.from_tensor(x) for x in problem.inputs])
        with tracker:
            return _probe(fakes, replace(request, timed=False), tracker, excluded)


def real_probe(problem: Problem, request: Request, excluded: Mapping[str, Doubt], limit_bytes: int) -> Probe:
    """Probe with real chunks, which are thrown away.

    Raises:
        OverBudget: Even a chunk of the probes would exceed the limit.
    """
    tracker = LiveBytes(problem.device, limit_bytes=limit_bytes)
    with tracker:
        return _probe(problem, request, tracker, excluded)


def _probe(problem: Problem, request: Request, tracker: LiveBytes, excluded: Mapping[str, Doubt]) -> Probe:
    """Run the prologue and small chunks; fit the line."""
    before_bytes = tracker.live_bytes
    mode, reasons = select_mode(problem, request, excluded)
    prologue_bytes, level_bytes = tracker.peak_bytes - before_bytes, tracker.live_bytes
    samples = _measure(mode, tracker)
    mode.release()
    fixed_bytes, direction_bytes = fit_chunks(samples, least_direction_bytes(mode))
    cost = Cost(
        prologue_bytes=prologue_bytes,
        kept_bytes=level_bytes - before_bytes,
        result_bytes=result_bytes(mode),
        fixed_bytes=fixed_bytes,
        direction_bytes=direction_bytes,
    )
    return Probe(mode, (*reasons, *mode.reasons), cost, tracker.hidden_scratch)


def _measure(mode: Mode, tracker: LiveBytes) -> dict[int, int]:
    """Return what chunks of a few sizes hold; larger ones are left out where they do not fit."""
    level_bytes, samples = tracker.live_bytes, dict[int, int]()
    for size in (min(size, n_directions(mode)) for size in _SIZES):
        tracker.restart_peak()
        try:
            mode.block(slice(0, size))
        except OverBudget:
            if samples:
                return samples
        else:
            samples[size] = tracker.peak_bytes - level_bytes
            continue
        mode.release()
        tracker.restart_peak()
        mode.block(slice(0, 1))
        return {1: tracker.peak_bytes - level_bytes}
    return samples
