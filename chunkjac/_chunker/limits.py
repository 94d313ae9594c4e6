"""What chunk sizes have to keep to, and what is guessed of them at first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chunkjac._chunker.cost import Cost, choose_chunk, even_chunk, fit_chunks

# A first guess, before anything is measured. On 19 architectures in all modes a direction held
# 0.02 to 2 times the peak of its prologue beside its seed and its block, mostly 0.5 to 1 (an LSTM
# in reverse mode: 9).
_CAUTIOUS_PROLOGUES = 4

# That guess without the caution, beside what a direction held: the median of 74 pairs of function and mode.
_GUESSED_TOO_HIGH = 2

# Chunks are fast while what an operation reads and writes stays in the caches. On 23 functions the best of the sizes
# 16, 64, 256, 1024 and all is that whose largest tensor has 4-16 MiB, whatever else a direction holds; where a
# direction has small tensors only, calls take the time, and all directions at once are best.
_CACHED_BYTES = 8 * 2**20

# A budget is ample if so many directions fit by the cautious guess; fewer are no good chunk.
_AMPLE_SIZE = 16

# A job is plain if its first chunk fits even if that holds so many times the cautious guess.
_PLAIN_FACTOR = 4

# So many directions at once are fast enough for any function: what fits so often need not be measured.
_PLAIN_SIZE = 64

# In a long job a faster way may be prepared after the first chunk, which is a small part of it.
_TRIALS = 32

# Where directions are computed one after the other, larger chunks gain nothing.
_LOOPED_SIZE = 8

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

    @property
    def typical_bytes(self) -> int:
        """Return what a direction mostly holds, by the prologue."""
        return max(1, self.base.direction_bytes + self.n_prologues * self.base.prologue_bytes)

    @property
    def cautious_bytes(self) -> int:
        """Return what a direction hardly ever holds more than, by the prologue."""
        return max(1, self.base.direction_bytes + _CAUTIOUS_PROLOGUES * self.n_prologues * self.base.prologue_bytes)

    @property
    def is_plain(self) -> bool:
        """Tell whether a good first chunk fits many times over, by the cautious guess."""
        size = self.first_size() if self.exact_size is None and self.batched else None
        return size is not None and min(size, _PLAIN_SIZE) <= self.sure_size

    @property
    def trial_size(self) -> int:
        """Return the size of a first chunk that takes a small part of a long job, and yet tells what others take."""
        return max(_AMPLE_SIZE, self.n_directions // _TRIALS) if self.is_long else self.n_directions

    @property
    def sure_size(self) -> int:
        """Return the largest size that fits many times over."""
        return self.room_bytes // (_PLAIN_FACTOR * self.cautious_bytes)

    @property
    def careful_size(self) -> int:
        """Return the size of a first chunk that hardly ever fails; one direction alone runs other kernels than two."""
        size = max(2, self.room_bytes // self.cautious_bytes)
        return min(size, _LOOPED_SIZE if not self.batched else _AMPLE_SIZE)

    def first_size(self) -> int | None:
        """Return a good size for the first chunk; ``None`` if the budget is too tight to guess one."""
        size = min(self.room_bytes // self.cautious_bytes, self.n_directions)
        if size < min(_AMPLE_SIZE, self.n_directions):
            return None
        if not self.batched:
            return min(size, _LOOPED_SIZE)
        fast_bytes = self.target_bytes if self.start_bytes is None else _GUESSED_TOO_HIGH * self.start_bytes
        return even_chunk(self.n_directions, min(size, self._fast_size(fast_bytes, 0, self.typical_bytes)))

    def start_size(self, cost: Cost) -> int | None:
        """Return the size to begin with, for a job of known cost; ``None`` if no other is to be tried."""
        if self.start_bytes is None or self.exact_size is not None or not self.batched:
            return None
        return self._fast_size(self.start_bytes, cost.fixed_bytes, cost.direction_bytes)

    def _fast_size(self, fast_bytes: int | None, fixed_bytes: int, direction_bytes: int) -> int:
        """Return the size that makes a working set of so many bytes; all at once if that makes less than two."""
        if fast_bytes is None:
            return self.n_directions
        if self.largest_bytes and self.start_bytes is not None:
            size = max(_AMPLE_SIZE, _CACHED_BYTES // self.largest_bytes)
            return (
                self.n_directions
                if self.n_directions < WORTH_A_NEW_SIZE * size
                else even_chunk(self.n_directions, size)
            )
        size = max(_AMPLE_SIZE, (fast_bytes - fixed_bytes) // max(1, direction_bytes))
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
        return size if self.batched else min(size, _LOOPED_SIZE)
