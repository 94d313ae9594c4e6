"""What comes next, what it held, and what a next run knows of that."""

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


@dataclass(slots=True)
class Learnt:
    """Hold what runs of a plan have learnt, for its next run: the one thing here that changes.

    Attributes:
        chunk_size: The size that took the least time for a direction; ``None`` before the first run.
        is_settled: Whether larger and smaller ones were tried.
        beside_bytes: The most that a counted run has held beside the result; ``None`` before the first.
    """

    chunk_size: int | None = None
    is_settled: bool = False
    beside_bytes: int | None = None

    def note_peak(self, beside_bytes: int) -> None:
        """Take note of what a counted run has held beside the result."""
        self.beside_bytes = max(self.beside_bytes or 0, beside_bytes)
