"""What happened, beside what was planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chunkjac._planner.plan import Plan
from chunkjac._planner.table import count, public_fields, table
from chunkjac._units import format_bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Say what happened, beside what was planned.

    Attributes:
        plan: The plan that was kept to: made before for ``Plan.run``, else from the first chunks.
        peak_bytes: The most that was alive, counted as ``plan.predicted_peak_bytes`` is; measured
            in the prologue, the probes and the first two chunks of each size, which the others repeat.
        process_rise_bytes: How far the process's resident set rose above its level at the call; on
            an accelerator, its allocator's bytes. Exact where that is a new peak for the process,
            else the highest level seen between chunks. It holds what no tensor shows as well.
        growth_bytes: What chunks left alive that was not alive before them: tensors that ``func``
            keeps. 0 in a sound run.
        elapsed_s: Seconds from call to return.
        chunk_sizes: The directions of each chunk, in order.
        n_retries: How often memory ran out and a smaller chunk was tried.
        verified_error: The largest error in the directions that were checked, relative to the largest element
            in each; ``None`` if none was.
        verified: By what the Jacobian is known to be right, or why it is not.
        estimated_error: For finite differences an estimate of the largest absolute error of the
            Jacobian, from truncation and rounding; ``None`` in other modes, and where memory has
            no room to find it.
    """

    plan: Plan
    peak_bytes: int
    process_rise_bytes: int
    growth_bytes: int
    elapsed_s: float
    chunk_sizes: tuple[int, ...]
    n_retries: int
    verified_error: float | None = None
    verified: str = ""
    estimated_error: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, ready for JSON."""
        return {**public_fields(self), "plan": self.plan.to_dict()}

    def __str__(self) -> str:
        """Return plan and report as one table."""
        ratio = self.peak_bytes / max(1, self.plan.predicted_peak_bytes)
        rows = [
            ("measured peak", f"{format_bytes(self.peak_bytes)}, {ratio:.1%} of predicted"),
            ("process rise", f"{format_bytes(self.process_rise_bytes)} on {self.plan.device}"),
            *([("kept by func", f"{format_bytes(self.growth_bytes)} between chunks")] if self.growth_bytes else []),
            ("time", f"{self.elapsed_s:.3g} s for {count(len(self.chunk_sizes), 'chunk')}"),
            *([("verified", self.verified)] if self.verified else []),
            *([] if self.verified_error is None else [("verified error", f"{self.verified_error:.2g} of the largest")]),
            ("retries", f"{self.n_retries}, after running out of memory" if self.n_retries else "none"),
            *(
                []
                if self.estimated_error is None
                else [("estimated error", f"{self.estimated_error:.1e}, the largest of an element")]
            ),
        ]
        return "\n".join([str(self.plan), "Report", *table(rows)])
