"""What a call asked for, checked: all that planning and running need to know."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from chunkjac._chunker import Chunks, Cost, Counting, Foreseen, Limits
from chunkjac._memory import Budget, Gauge, LiveBytes
from chunkjac._modes import Bounds, Mode, Step, least_direction_bytes
from chunkjac._planner.options import Options
from chunkjac._planner.progress import ProgressOption
from chunkjac._problem import Problem
from chunkjac._sinks import Destination, NewTensor

# On the CPU a chunk is fastest while its working set is near the caches: the best was between
# 6 and 68 MiB on the functions measured, and the largest chunk that fits 1.2-3.9 times slower.
_CPU_TARGET_BYTES = 64 * 2**20

# Where time tells the rest, the first chunk is smaller. 74 pairs of a function and a mode, one thread of two
# shared cores (AMD EPYC), torch 2.13.0+cpu: times of chunks of 4, 8, 16, ... were measured and those of whole
# jobs added up from them, against the best of the sizes 16, 64, 256, 1024 and all. Geometric mean and worst:
# 64 MiB throughout 1.06, 2.1; starts at 16, 24, 32, 48, 64 MiB with doubles and halves tried 1.03, 1.8; 1.03, 1.4;
# 1.03, 1.4; 1.05, 1.5; 1.06, 1.5.
_CPU_START_BYTES = 24 * 2**20


@dataclass(frozen=True, slots=True)
class Job:
    """Hold what a call asked for, checked.

    Attributes:
        problem: The function and its inputs.
        options: The options of the call, read.
        device: Where the function is to run: where its inputs are, or where a plan is for.
        budget: What the job may hold there.
        out: Where blocks go.
        steps: The step of each input leaf in finite differences, checked.
        bounds: The limits of each, checked.
        progress: How to show progress.
        return_report: Whether the report is wanted beside the result.
        estimates_error: Whether a report says how far finite differences are off, which takes evaluations.
        held_bytes: What the call holds beside the job, which is not in the budget any more.
        has_chosen: Whether the mode is what a plan has chosen, and may be left as ``auto`` may be.
    """

    problem: Problem
    options: Options
    device: torch.device
    budget: Budget
    out: Destination = field(default_factory=NewTensor)
    steps: tuple[Step, ...] = ()
    bounds: tuple[Bounds, ...] | None = None
    progress: ProgressOption = None
    return_report: bool = False
    estimates_error: bool = True
    held_bytes: int = 0
    has_chosen: bool = False

    def beside(self, n_bytes: int) -> Job:
        """Return the same job in a smaller budget, where the call holds so much beside it."""
        budget = replace(self.budget, n_bytes=self.budget.n_bytes - n_bytes)
        return replace(self, budget=budget, held_bytes=self.held_bytes + n_bytes)

    def in_mode(self, name: str) -> Job:
        """Return the same job where the mode is known."""
        has_chosen = self.has_chosen or self.options.mode == "auto"
        return replace(self, options=replace(self.options, mode=name), has_chosen=has_chosen)

    def may_leave(self, name: str) -> bool:
        """Tell whether another mode may be taken instead: finite differences are the last."""
        return (self.has_chosen or self.options.mode == "auto") and name != "finite-difference"

    @property
    def exact_size(self) -> int | None:
        """Return the chunk size if it is settled: by the user, or by what was planned for a file."""
        return self.out.fixed_chunk_size or self.options.chunk_size

    def counting(self, foreseen: Foreseen | None = None) -> Counting:
        """Return how closely a run is counted: a limit that somebody set is kept, and figures are told exactly.

        Args:
            foreseen: What is known of the run; ``None`` for nothing.
        """
        foreseen = foreseen or Foreseen()
        is_set, tells, n_bytes, on_cpu = self.budget.explicit, self.return_report, self.budget.n_bytes, self._is_on_cpu
        trusts = not (is_set or tells)
        is_quick = trusts and on_cpu and not self.problem.runs_compiled_code
        chunks = Chunks.NEW_SIZES if tells else Chunks.UNSURE
        if trusts:
            chunks = Chunks.NONE if foreseen.is_ample(n_bytes) else Chunks.NOW_AND_THEN
        repeats = is_set and not tells and self.out.allocates_result and foreseen.fits(n_bytes)
        return Counting(
            budget_bytes=n_bytes,
            limit_bytes=n_bytes if is_set or self.options.chunk_size is None else None,
            by_calls=is_quick and not self.options.create_graph,
            chunks=chunks,
            counts_again=not (repeats or chunks is Chunks.NONE),
            is_timed=not self.out.is_repeatable,
            is_quick=is_quick,
            is_exact=on_cpu and is_set,
        )

    @property
    def _is_on_cpu(self) -> bool:
        """Tell whether the function is to run on the CPU."""
        return self.device.type == "cpu"

    def tracker(self, counting: Counting) -> LiveBytes:
        """Return what counts live bytes, and stops what would exceed the budget."""
        return LiveBytes(
            self.device,
            limit_bytes=counting.limit_bytes,
            is_guess=not self.budget.explicit,
            rests_below_bytes=counting.resting_bytes,
            gauge=None if self._is_on_cpu else Gauge.of(self.device),
        )

    def left_bytes(self, tracker: LiveBytes) -> int:
        """Return what the prologue has left for result and chunks."""
        return self.budget.n_bytes - tracker.live_bytes

    def limits(self, mode: Mode, tracker: LiveBytes, counting: Counting) -> Limits:
        """Return what the chunk sizes have to keep to, when the mode's prologue has run.

        Args:
            mode: What makes the blocks.
            tracker: What counted live bytes since the job began.
            counting: How closely.
        """
        on_cpu = self._is_on_cpu
        base = Cost(
            prologue_bytes=tracker.peak_bytes,
            kept_bytes=tracker.live_bytes,
            result_bytes=self.out.held_bytes(mode, self.left_bytes(tracker)),
            fixed_bytes=0,
            direction_bytes=least_direction_bytes(mode),
        )
        return Limits(
            n_directions=mode.directions.n,
            base=base,
            budget_bytes=self.budget.n_bytes,
            target_bytes=_CPU_TARGET_BYTES if on_cpu else None,
            exact_size=self.exact_size,
            batched=mode.batched,
            margin=counting.margin,
            start_bytes=_CPU_START_BYTES if on_cpu else None,
            n_prologues=max(1, mode.seeds_per_direction) if tracker.has_rested else 1,
            is_long=mode.is_long,
            largest_bytes=mode.largest_bytes or max(1, mode.seeds_per_direction) * tracker.largest_bytes,
        )
