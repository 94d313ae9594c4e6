"""What the runs of a plan leave for its next run."""

from __future__ import annotations

from dataclasses import dataclass, field

from chunkjac._linear import Programs
from chunkjac._pacer import Learnt


@dataclass(frozen=True, slots=True)
class Experience:
    """Hold what a plan's runs share.

    Attributes:
        learnt: Which chunk size is fastest.
        programs: What was recorded.
    """

    learnt: Learnt = field(default_factory=Learnt)
    programs: Programs = field(default_factory=Programs)
