"""What the runs of a plan leave for its next run."""

from __future__ import annotations

from dataclasses import dataclass, field

from chunkjac._chunker import Learnt
from chunkjac._programs import Records


@dataclass(frozen=True, slots=True)
class Experience:
    """Hold what a plan's runs share.

    Attributes:
        learnt: Which chunk size is fastest.
        programs: What was recorded.
    """

    learnt: Learnt = field(default_factory=Learnt)
    programs: Records = field(default_factory=Records)

    @classmethod
    def of(cls, *, compiles: bool, is_kept: bool) -> Experience:
        """Return what a plan begins with.

        Args:
            compiles: Whether steps are compiled.
            is_kept: Whether another run may follow; where none can, less need be remembered.
        """
        return cls(programs=Records(is_kept=is_kept, compiles=compiles))
