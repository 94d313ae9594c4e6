"""What comes next in a job, and what it turned out to hold. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """Hold what comes next.

    Attributes:
        chunk: The directions.
        is_free: Whether any size would have done; some ways of computing suit one size only.
        is_new: Whether it begins another way of computing, which holds other memory than those before.
        is_measured: Whether live bytes are counted in it.
    """

    chunk: slice
    is_free: bool
    is_new: bool
    is_measured: bool

    @property
    def size(self) -> int:
        """Return how many directions there are."""
        return self.chunk.stop - self.chunk.start


@dataclass(frozen=True, slots=True)
class Measured:
    """Hold what a chunk held.

    Attributes:
        held_bytes: Its peak above the level between chunks.
        margin: How many times its tensors' bytes it really took, where kernels work in memory that no tensor shows.
        grows: Whether more was alive after it than before; ``None`` if that cannot be told.
    """

    held_bytes: int
    margin: float = 1.0
    grows: bool | None = None
