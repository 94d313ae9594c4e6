"""What the runs of a plan leave for its next run."""

from __future__ import annotations

from dataclasses import dataclass, field

from chunkjac._chunker import Foreseen, Learnt
from chunkjac._executor.shortcut import Shortcut
from chunkjac._planner import Probe
from chunkjac._programs import Records


@dataclass(frozen=True, slots=True)
class Experience:
    """Hold what a plan's runs share.

    Attributes:
        learnt: Which chunk size is fastest.
        programs: What was recorded.
        shortcut: What is done without planning.
    """

    learnt: Learnt = field(default_factory=Learnt)
    programs: Records = field(default_factory=Records)
    shortcut: Shortcut = field(default_factory=Shortcut)

    @classmethod
    def of(cls, *, compiles: bool, is_kept: bool) -> Experience:
        """Return what a plan begins with.

        Args:
            compiles: Whether steps are compiled.
            is_kept: Whether another run may follow; where none can, less need be remembered.
        """
        return cls(programs=Records(is_kept=is_kept, compiles=compiles))

    def foreseen(self, known: Probe | None) -> Foreseen | None:
        """Return what is known of the next run.

        Args:
            known: What the plan says of it; ``None`` without one.
        """
        if known is None:
            return None
        planned_bytes = known.cost.peak_bytes(known.chunk_size) if known.certain else None
        return Foreseen(planned_bytes, self.learnt.beside_bytes, known.cost.result_bytes)
