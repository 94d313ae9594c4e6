"""What a limit costs in time, said as soon as that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chunkjac._chunker import Limits, Pacer
from chunkjac._errors import BudgetError, RungWarning, warn
from chunkjac._modes import Mode, ModeSummary
from chunkjac._planner.doubts import left_for_memory
from chunkjac._planner.job import Job
from chunkjac._planner.probe import least_probe
from chunkjac._units import format_bytes

# So many times as many directions, or chunks, are worth a word; of chunks, if all of them take so long.
_TIMES, _CHUNKS_TIMES, _WORTH_A_WORD_S = 8, 16, 60.0

# So many times as many directions make days of a minute: nobody waits for that who has not asked for it.
_HOPELESS_TIMES = 1000

# By then chunks are as large as they will be, but for those that time tells to be faster.
_TELLING_CHUNKS = 4


@dataclass(frozen=True, slots=True)
class Slowness:
    """Warn where more memory would save most of the time.

    Attributes:
        job: What was asked for.
    """

    job: Job

    def warn_of_mode(self, mode: Mode, reasons: tuple[str, ...]) -> None:
        """Warn if a mode with far fewer directions was left because it does not fit, and say what it needs.

        Args:
            mode: What is taken instead.
            reasons: Why that one.

        Raises:
            BudgetError: It would take thousands of times as long.
        """
        if not self.job.budget.explicit:
            return
        summary, job = ModeSummary.of(mode), self.job
        numbers = {"reverse": summary.n_outputs, "forward": summary.n_inputs}
        left = [name for name in left_for_memory(reasons) if summary.n_directions >= _TIMES * numbers.get(name, 2**63)]
        if not left:
            return
        name = min(left, key=lambda name: numbers[name])
        needed_bytes: int | None = None
        try:
            needed_bytes = least_probe(job.in_mode(name)).peak_bytes + job.held_bytes
            advice = f"max_memory of {needed_bytes} bytes or more lets it run"
        except Exception:
            advice = "give more max_memory"
        budget_bytes = job.budget.n_bytes + job.held_bytes
        told = (
            f"{name} mode, of {numbers[name]} directions, does not fit in {format_bytes(budget_bytes)}; "
            f"{mode.name} mode takes {summary.n_directions}, and may take many times as long: {advice}"
        )
        if summary.n_directions >= _HOPELESS_TIMES * max(1, numbers[name]):
            raise BudgetError(f"{told}, or mode={mode.name!r}, which fits.", budget_bytes, needed_bytes)
        warn(f"{told}.", RungWarning)

    def warn_of_chunks(self, limits: Limits, pacer: Pacer, sizes: Sequence[int], latest_s: float) -> None:
        """Warn, once, if a limit makes chunks far smaller than is fast, in a job that takes long.

        Args:
            limits: What chunk sizes have to keep to.
            pacer: What chooses them.
            sizes: The chunks so far.
            latest_s: What the latest has taken.
        """
        fast_size = limits.start_size(pacer.cost)
        if len(sizes) != _TELLING_CHUNKS or not self.job.budget.explicit or fast_size is None:
            return
        is_long = latest_s / sizes[-1] * limits.n_directions > _WORTH_A_WORD_S
        if is_long and _CHUNKS_TIMES * max(sizes) <= fast_size:
            warn(
                f"{format_bytes(self.job.budget.n_bytes)} have room for chunks of {max(sizes)}; those of {fast_size} "
                f"may take a small part of the time: give {pacer.cost.peak_bytes(fast_size)} bytes of max_memory.",
                RungWarning,
            )
