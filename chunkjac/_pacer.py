"""How large the next chunk is, from what the chunks so far have held. No torch here.

The first chunks of a job are its probes: they are part of the result, and what they hold
gives the line from which the size of all others follows. A budget that is plainly ample
starts with good chunks at once, because small chunks are slow; a tight one with 2, 2 and 8,
where the second 2 overwrites the measure of the first (lazy first-call work).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chunkjac._planner import TIGHT_PROBES, Cost, choose_chunk, even_chunk, fit_chunks

_AMPLE_PROBES = (8, 32)

# A first guess, before anything is measured: no function in the tests holds more per
# direction than this many times the peak of its prologue.
_PROLOGUES_PER_DIRECTION = 4

# What a function keeps for later (a cache, say) is no reason to plan anew.
_TOLERANCE = 1.02


@dataclass(frozen=True, slots=True)
class Terms:
    """Hold what a job has to keep to.

    Attributes:
        n_directions: How many directions the job has.
        base: Its cost as far as known before the first chunk; ``direction_bytes`` is a guess.
        budget_bytes: What the job may hold.
        target_bytes: The working set beyond which chunks do not get faster; ``None`` if unknown.
        exact_size: The chunk size that the user asked for.
        margin: How many times its tensors' bytes a chunk may really take.
        scratch_margin: The same where operations ran that work in memory no tensor shows.
    """

    n_directions: int
    base: Cost
    budget_bytes: int
    target_bytes: int | None
    exact_size: int | None = None
    margin: float = 1.0
    scratch_margin: float = 1.0

    @property
    def room_bytes(self) -> int:
        """Return what a chunk may hold."""
        return self.budget_bytes - self.base.level_bytes

    def fit(self, samples: Mapping[int, int], *, scratch: bool) -> Cost:
        """Return the cost that follows from measured chunks.

        Args:
            samples: Chunk size to bytes held above the level between chunks; not empty.
            scratch: Whether operations ran that work in memory no tensor shows.
        """
        fixed_bytes, direction_bytes = fit_chunks(samples)
        margin = self.scratch_margin if scratch else self.margin
        return replace(self.base, fixed_bytes=fixed_bytes, direction_bytes=direction_bytes, margin=margin)

    def choose(self, cost: Cost, n_directions: int) -> int:
        """Return the chunk size for so many directions."""
        if self.exact_size is not None:
            return min(self.exact_size, n_directions)
        return choose_chunk(cost, n_directions, self.budget_bytes, self.target_bytes)


class Pacer:
    """Choose chunk sizes, and learn from each chunk.

    Args:
        terms: What the job has to keep to.
        cost: The job's cost, if a plan knows it: then nothing is probed.
        chunk_size: The size of all chunks, if a plan knows it.
        checked: Whether nothing need be measured.

    Attributes:
        cost: What the job costs, as far as is known.
        chunk_size: The size of all chunks after the probes; ``None`` while probing.
    """

    def __init__(
        self, terms: Terms, cost: Cost | None = None, chunk_size: int | None = None, *, checked: bool = False
    ) -> None:
        self.cost = cost or terms.base
        self.chunk_size = terms.exact_size or chunk_size
        self._terms = terms
        self._probes = [] if self.chunk_size else _choose_probes(terms)
        self._samples: dict[int, int] = {}
        self._most = terms.n_directions  # nothing larger is tried again after running out of memory
        self._checked = checked

    @property
    def measures(self) -> bool:
        """Tell whether the next chunk must be measured: a probe, or the first of its size."""
        return not self._checked

    def next_chunk(self, done: int) -> slice:
        """Return the directions that come next, after the first ``done``."""
        left = self._terms.n_directions - done
        if self._probes:
            size = min(self._probes[0], self._may_fit(), self._most)
        else:
            size = self.chunk_size = self.chunk_size or self._choose(left)
        return slice(done, done + max(1, min(size, left)))

    def learn(self, chunk: slice, held_bytes: int, *, scratch: bool = False) -> None:
        """Take in what a measured chunk held.

        Args:
            chunk: The directions that were computed.
            held_bytes: The chunk's peak above the level between chunks.
            scratch: Whether operations ran that work in memory no tensor shows.
        """
        size, left = chunk.stop - chunk.start, self._terms.n_directions - chunk.stop
        as_predicted = held_bytes <= _TOLERANCE * (self.cost.fixed_bytes + self.cost.direction_bytes * size)
        self._samples[size] = held_bytes
        if self._probes:
            del self._probes[0]
        elif as_predicted:
            self._checked = True
            return
        self.cost = self._terms.fit(self._samples, scratch=scratch)
        if not self._probes and left:
            self.chunk_size = self._choose(left)

    def shrink(self, failed_size: int) -> bool:
        """Halve after running out of memory; return whether there is anything to halve."""
        if failed_size == 1:
            return False
        self._most = -(-failed_size // 2)
        self.chunk_size = None
        self._checked = False
        return True

    def _choose(self, left: int) -> int:
        """Return the size for the rest of the job."""
        size = self._terms.choose(self.cost, left)
        return size if size <= self._most else even_chunk(left, self._most)

    def _may_fit(self) -> int:
        """Return a size to probe with.

        It fits even if nothing of what the chunks held is fixed. Where that is no larger than
        what was measured, and so would tell nothing new, twice that is tried: if it does not
        fit, it is refused before it is computed.
        """
        room_bytes = int(self._terms.room_bytes / self.cost.margin)
        if not self._samples:
            return max(1, room_bytes // max(1, self._terms.base.direction_bytes))
        size = max(self._samples)
        surely = size * room_bytes // max(1, self._samples[size])
        return surely if surely > size else 2 * size


def _choose_probes(terms: Terms) -> list[int]:
    """Return the sizes of the first chunks."""
    guess_bytes = terms.base.direction_bytes + _PROLOGUES_PER_DIRECTION * terms.base.prologue_bytes
    ample = 4 * guess_bytes * _AMPLE_PROBES[-1] <= terms.room_bytes
    if ample and terms.n_directions <= _AMPLE_PROBES[-1]:
        return [terms.n_directions]
    return [*(_AMPLE_PROBES if ample else TIGHT_PROBES)]
