"""What chunk sizes have to keep to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chunkjac._chunker.cost import Cost, choose_chunk, even_chunk, fit_chunks

# Chunks are fast while what an operation reads and writes stays in the caches. On 23 functions the best of the sizes
# 16, 64, 256, 1024 and all is that whose largest tensor has 4-16 MiB, whatever else a direction holds; where a
# direction has small tensors only, calls take the time, and all directions at once are best.
_CACHED_BYTES = 8 * 2**20

# Where that makes few directions, somewhat more are faster, but not as many as elsewhere: GPT-2 (124 M parameters,
# tensors of 3 MiB) takes 23.1, 21.4, 20.4, 21.1, 25.3, 30.0 s by chunks of 1, 2, 4, 8, 16, 32.
_MOST_CACHED_BYTES, _LEAST_SIZE = 16 * 2**20, 4

# A budget is ample if so many directions fit by the cautious guess; fewer are no good chunk.
GOOD_SIZE = 16

# Where directions are computed one after the other, larger chunks gain nothing.
LOOPED_SIZE = 8

# Another size than the one that runs must be so many times as large to be worth a new shape.
WORTH_A_NEW_SIZE = 2


@dataclass(frozen=True, slots=True)
class Limits:
    """Hold what a job has to keep to.

    Attributes:
        n_directions: How many directions the job has.
        base: Its cost as far as known before the first chunk; ``direction_bytes`` is a guess.
        budget_bytes: What the job may hold.
        target_bytes: The working set beyond which chunks do not get faster; ``None`` if unknown.
        exact_size: The chunk size that the user asked for.
        batched: Whether larger chunks are faster at all.
        margin: How many times its tensors' bytes a chunk is taken to need, at least.
        start_bytes: The working set to begin with where others are tried while the job runs;
            ``None`` tries no other.
        n_prologues: How many times what the prologue evaluates a direction does.
        is_long: Whether the job takes long, however fast it is done.
        largest_bytes: The largest tensor that a direction makes, by the prologue; 0 if that is unknown.
    """

    n_directions: int
    base: Cost
    budget_bytes: int
    target_bytes: int | None
    exact_size: int | None = None
    batched: bool = True
    margin: float = 1.0
    start_bytes: int | None = None
    n_prologues: int = 1
    is_long: bool = False
    largest_bytes: int = 0

    @property
    def room_bytes(self) -> int:
        """Return what a chunk may hold."""
        return self.budget_bytes - self.base.level_bytes

    def start_size(self, cost: Cost) -> int | None:
        """Return the size to begin with, for a job of known cost; ``None`` if no other is to be tried."""
        if self.start_bytes is None or self.exact_size is not None or not self.batched:
            return None
        return self.fast_size(self.start_bytes, cost.fixed_bytes, cost.direction_bytes)

    def fast_size(self, fast_bytes: int | None, fixed_bytes: int, direction_bytes: int) -> int:
        """Return the size that makes a working set of so many bytes; all at once if that makes less than two."""
        if fast_bytes is None:
            return self.n_directions
        if self.largest_bytes and self.start_bytes is not None:
            few = min(GOOD_SIZE, _MOST_CACHED_BYTES // self.largest_bytes)
            size = max(_LEAST_SIZE, few, _CACHED_BYTES // self.largest_bytes)
            is_one = self.n_directions < WORTH_A_NEW_SIZE * size
            return self.n_directions if is_one else even_chunk(self.n_directions, size)
        size = max(GOOD_SIZE, (fast_bytes - fixed_bytes) // max(1, direction_bytes))
        if self.n_directions * direction_bytes < WORTH_A_NEW_SIZE * fast_bytes or self.n_directions <= size:
            return self.n_directions
        return even_chunk(self.n_directions, size)

    def fit(self, samples: Mapping[int, int], margin: float) -> Cost:
        """Return the cost that follows from measured chunks.

        Args:
            samples: Chunk size to bytes held above the level between chunks; not empty.
            margin: How many times its tensors' bytes a chunk really took.
        """
        fixed_bytes, direction_bytes = fit_chunks(samples)
        margin = max(self.margin, margin)
        return replace(self.base, fixed_bytes=fixed_bytes, direction_bytes=direction_bytes, margin=margin)

    def choose(self, cost: Cost, n_directions: int) -> int:
        """Return the chunk size for so many directions."""
        if self.exact_size is not None:
            return min(self.exact_size, n_directions)
        size = choose_chunk(cost, n_directions, self.budget_bytes, self.target_bytes)
        return size if self.batched else min(size, LOOPED_SIZE)
