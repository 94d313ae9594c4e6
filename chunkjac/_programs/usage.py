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
        is_usual: Whether later runs of the plan will go like this one: without counting what is known to fit.
        is_counted: Whether what chunks hold is counted: then programs of two sizes are never in memory at once.
        is_repeatable: Whether no clock may decide how blocks are made: a program is used from the first chunk on
            if one can be made.
    """

    exact_size: int | None
    room: ChunkRoom
    is_usual: bool
    is_counted: bool
    is_repeatable: bool
