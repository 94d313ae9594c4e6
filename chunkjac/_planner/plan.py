"""What will be done, and what it will hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict

from chunkjac._planner.bar import draw_bar
from chunkjac._planner.progress import Progress
from chunkjac._planner.table import count, listed, public_fields, table
from chunkjac._units import format_bytes

if TYPE_CHECKING:
    from typing_extensions import Unpack


class GivenToRun(TypedDict, total=False):
    """Hold what a run of a plan takes anew; what is left out is as planned."""

    out: Any
    resume: bool
    progress: bool | Callable[[Progress], object] | None
    return_report: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """Say how a Jacobian is computed, and what it will hold.

    All byte counts are of tensors on ``device``, above the level when the job begins.

    Attributes:
        mode: ``"reverse"``, ``"forward"`` or ``"finite-difference"``.
        rung: The way in which the mode runs.
        structure: What makes the Jacobian cheaper than dense; ``None`` for nothing.
        sink: Where blocks go.
        device: Where the function runs.
        chunk_size: Directions in a chunk.
        n_chunks: Chunks in all.
        n_inputs: Elements of the inputs: columns.
        n_outputs: Elements of the outputs: rows.
        n_directions: What the chunks divide: rows in reverse mode, columns otherwise.
        result_bytes: The Jacobian itself.
        allocated_bytes: What of that the call allocates on ``device``, so that it counts.
        prologue_bytes: The peak of what runs once, before the result is allocated.
        kept_bytes: What that leaves alive: in reverse mode, the saved activations.
        seed_bytes: The seeds of a chunk; in finite differences its perturbed copies.
        fixed_bytes: What stays alive beside the result, whatever the chunk size.
        direction_bytes: What each direction of a chunk takes.
        predicted_peak_bytes: The most that the job will hold.
        budget_bytes: The most that it may hold.
        budget_source: Where the budget came from.
        reasons: Why this mode, rung and chunk size.
    """

    mode: str
    rung: str
    structure: str | None
    sink: str
    device: str
    chunk_size: int
    n_chunks: int
    n_inputs: int
    n_outputs: int
    n_directions: int
    result_bytes: int
    allocated_bytes: int
    prologue_bytes: int
    kept_bytes: int
    seed_bytes: int
    fixed_bytes: int
    direction_bytes: int
    predicted_peak_bytes: int
    budget_bytes: int
    budget_source: str
    reasons: tuple[str, ...]
    _runner: Callable[[tuple[Any, ...], GivenToRun], Any] = field(repr=False, compare=False)

    def run(self, *args: Any, **given: Unpack[GivenToRun]) -> Any:
        """Compute the Jacobian as planned; nothing is probed again.

        Args:
            *args: Other arguments, of the same shapes, dtypes and devices as those planned
                for; without any, the same.
            **given: ``out``, ``resume``, ``progress`` and ``return_report``, as in :func:`chunkjac.jacobian`.

        Returns:
            What :func:`chunkjac.jacobian` returns.

        Raises:
            ArgumentError: ``args`` differ from what was planned for; each difference is listed.
        """
        return self._runner(args, given)

    def to_dict(self) -> dict[str, Any]:
        """Return the public fields, ready for JSON."""
        return public_fields(self)

    def __str__(self) -> str:
        """Return the plan as a table."""
        return "\n".join([f"Plan on {self.device}", *table(self._rows()), *listed(self.reasons)])

    def _rows(self) -> list[tuple[str, str]]:
        """Return what the table shows."""
        axis = "rows (outputs)" if self.mode == "reverse" else "columns (inputs)"
        share = self.predicted_peak_bytes / self.budget_bytes
        chunk_bytes = self.fixed_bytes - self.kept_bytes + self.direction_bytes * self.chunk_size
        in_prologue = self.prologue_bytes > self.allocated_bytes + self.kept_bytes + chunk_bytes
        parts = {
            "result": self.allocated_bytes,
            "kept": self.kept_bytes,
            "seeds": min(self.seed_bytes, chunk_bytes),
            "working set": max(0, chunk_bytes - self.seed_bytes),
        }
        bar, legend = draw_bar(parts, self.budget_bytes)
        return [
            ("Jacobian", f"{self.n_outputs} x {self.n_inputs}, {format_bytes(self.result_bytes)} in {self.sink}"),
            ("mode", f"{self.mode} by {self.rung}"),
            ("chunks", f"{self.n_directions} {axis}, {self.chunk_size} at a time, in {count(self.n_chunks, 'chunk')}"),
            ("fixed", format_bytes(self.fixed_bytes)),
            ("per direction", format_bytes(self.direction_bytes)),
            *([("prologue", f"{format_bytes(self.prologue_bytes)}: that is the peak")] if in_prologue else []),
            ("predicted peak", f"{format_bytes(self.predicted_peak_bytes)}, {share:.0%} of the budget"),
            ("budget", f"{format_bytes(self.budget_bytes)}, {self.budget_source}"),
            ("memory", bar),
            ("", legend),
        ]
