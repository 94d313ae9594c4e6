"""What a run lets its programs do."""

from __future__ import annotations

from dataclasses import dataclass

from chunkjac._chunker import ChunkRoom


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Hold how a run makes its blocks, as far as programs have to keep to it.

    Attributes:
        exact_size: How many directions a chunk has, if the user said so.
        room: What a chunk may hold.
        counts_again: Whether programs are counted that hold what they have held in an earlier run; if not, later runs
            of the plan will go like this one.
        is_counted: Whether what chunks hold is counted: then programs of two sizes are never in memory at once.
        is_timed: Whether a clock may decide how blocks are made; if not, a program is used from the first chunk on
            if one can be made.
    """

    exact_size: int | None
    room: ChunkRoom
    counts_again: bool
    is_counted: bool
    is_timed: bool
