"""What the first chunk is, before anything is measured, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

from chunkjac._chunker.cost import even_chunk
from chunkjac._chunker.counting import Chunks
from chunkjac._chunker.limits import GOOD_SIZE, LOOPED_SIZE, Limits

# On 19 architectures in all modes a direction held 0.02 to 2 times the peak of its prologue beside its seed and its
# block, mostly 0.5 to 1 (an LSTM in reverse mode: 9).
_CAUTIOUS_PROLOGUES = 4

# That guess without the caution, beside what a direction held: the median of 74 pairs of function and mode.
_GUESSED_TOO_HIGH = 2

# A job is plain if its first chunk fits even if that holds so many times the cautious guess.
_PLAIN_FACTOR = 4

# So many directions at once are fast enough for any function: what fits so often need not be measured.
_PLAIN_SIZE = 64

# In a long job a faster way may be prepared after the first chunk, which is a small part of it.
_TRIALS = 32


@dataclass(frozen=True, slots=True)
class FirstGuess:
    """Say how a job begins.

    Attributes:
        size: The size to begin with.
        n_probes: How many chunks are to tell what others hold: 0 if that need not be known, 1 for a good chunk, 2 where
            the budget is too tight to guess one.
        most: The largest size that may be tried without measuring; 0 for none.
        trial_size: The most that the first chunk takes.
        direction_bytes: What a direction hardly ever holds more than.
    """

    size: int
    n_probes: int
    most: int
    trial_size: int
    direction_bytes: int

    @property
    def is_plain(self) -> bool:
        """Tell whether a good chunk fits so many times that nothing need be measured."""
        return not self.n_probes


def first_guess(limits: Limits, chunks: Chunks) -> FirstGuess:
    """Return how a job begins whose chunk size nobody knows.

    Args:
        limits: What chunk sizes have to keep to.
        chunks: Which chunks are measured.
    """
    guessed_bytes = limits.n_prologues * limits.base.prologue_bytes
    cautious_bytes = max(1, limits.base.direction_bytes + _CAUTIOUS_PROLOGUES * guessed_bytes)
    fitting, sure = limits.room_bytes // cautious_bytes, limits.room_bytes // (_PLAIN_FACTOR * cautious_bytes)
    if fitting < min(GOOD_SIZE, limits.n_directions):
        careful = min(max(2, fitting), GOOD_SIZE if limits.batched else LOOPED_SIZE)  # one alone runs other kernels
        return FirstGuess(careful, 2, 0, limits.n_directions, cautious_bytes)
    size = _good_size(limits, min(fitting, limits.n_directions), max(1, limits.base.direction_bytes + guessed_bytes))
    is_free = limits.batched and limits.exact_size is None
    if not (is_free and chunks is Chunks.NOW_AND_THEN and min(size, _PLAIN_SIZE) <= sure):
        return FirstGuess(size, 1, 0, limits.n_directions, cautious_bytes)
    size = min(size, sure)
    trial = max(GOOD_SIZE, limits.n_directions // _TRIALS) if limits.is_long else limits.n_directions
    return FirstGuess(size, 0, size if limits.start_bytes is None else sure, trial, cautious_bytes)


def _good_size(limits: Limits, fitting: int, direction_bytes: int) -> int:
    """Return the size that is fast by what a direction mostly holds, and fits."""
    if not limits.batched:
        return min(fitting, LOOPED_SIZE)
    fast_bytes = limits.target_bytes if limits.start_bytes is None else _GUESSED_TOO_HIGH * limits.start_bytes
    return even_chunk(limits.n_directions, min(fitting, limits.fast_size(fast_bytes, 0, direction_bytes)))
