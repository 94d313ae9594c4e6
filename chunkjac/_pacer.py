"""How large the next chunk is, from what the chunks so far have held. No torch here.

The first chunks of a job are its probes: they are part of the result, and what they hold
gives the line from which the size of all others follows. A budget that is plainly ample
starts with one good chunk at once, because small chunks are slow; a tight one with 2, 2 and 8,
where the second 2 overwrites the measure of the first (lazy first-call work).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from chunkjac._planner import TIGHT_PROBES, Cost, choose_chunk, even_chunk, fit_chunks

# A first guess, before anything is measured: no function in the tests holds more per
# direction than this many times the peak of its prologue, and most hold half of that.
_PROLOGUES_PER_DIRECTION = 4

# A budget is ample if so many directions fit, even if each holds so many times the guess.
_AMPLE_SIZE = 32
_AMPLE_FACTOR = 4

# A job is plain if it is one chunk, even if that holds so many times the guess.
_PLAIN_FACTOR = 16

# Where directions are computed one after the other, larger chunks gain nothing.
_LOOPED_SIZE = 8

# Another size than the one that runs must be so many times as large to be worth a new shape.
_WORTH_A_NEW_SIZE = 2

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
        batched: Whether larger chunks are faster at all.
        margin: How many times its tensors' bytes a chunk is taken to need, at least.
        trusting: Whether a job that is plainly small need not be measured.
    """

    n_directions: int
    base: Cost
    budget_bytes: int
    target_bytes: int | None
    exact_size: int | None = None
    batched: bool = True
    margin: float = 1.0
    trusting: bool = False

    @property
    def room_bytes(self) -> int:
        """Return what a chunk may hold."""
        return self.budget_bytes - self.base.level_bytes

    @property
    def guess_bytes(self) -> int:
        """Return what a direction may hold, before anything is measured."""
        return self.base.direction_bytes + _PROLOGUES_PER_DIRECTION * self.base.prologue_bytes

    @property
    def is_plain(self) -> bool:
        """Tell whether the whole job is one chunk that fits many times over."""
        all_bytes = self.n_directions * self.guess_bytes
        within_target = self.target_bytes is None or all_bytes <= self.target_bytes * _WORTH_A_NEW_SIZE
        return (
            self.exact_size is None and self.batched and within_target and _PLAIN_FACTOR * all_bytes <= self.room_bytes
        )

    def fit(self, samples: Mapping[int, int], load: float) -> Cost:
        """Return the cost that follows from measured chunks.

        Args:
            samples: Chunk size to bytes held above the level between chunks; not empty.
            load: How many times its tensors' bytes a chunk really took.
        """
        fixed_bytes, direction_bytes = fit_chunks(samples)
        margin = max(self.margin, load)
        return replace(self.base, fixed_bytes=fixed_bytes, direction_bytes=direction_bytes, margin=margin)

    def choose(self, cost: Cost, n_directions: int) -> int:
        """Return the chunk size for so many directions."""
        if self.exact_size is not None:
            return min(self.exact_size, n_directions)
        size = choose_chunk(cost, n_directions, self.budget_bytes, self.target_bytes)
        return size if self.batched else min(size, _LOOPED_SIZE)


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
        self._load = 1.0
        self._most = terms.n_directions  # nothing larger is tried again after running out of memory
        self._level_holds = False  # until a chunk has shown that what is alive between chunks does not grow
        self._checked = checked or (terms.trusting and terms.is_plain)

    @property
    def measures(self) -> bool:
        """Tell whether the next chunk must be measured: a probe, the first of its size, or after a surprise."""
        return not self._checked

    def next_chunk(self, done: int) -> slice:
        """Return the directions that come next, after the first ``done``."""
        left = self._terms.n_directions - done
        if self._probes:
            size = min(self._probes[0], self._may_fit(), self._most)
        else:
            size = self.chunk_size = self.chunk_size or self._choose(left)
        return slice(done, done + max(1, min(size, left)))

    def learn(self, chunk: slice, held_bytes: int, *, load: float = 1.0, grows: bool | None = None) -> None:
        """Take in what a measured chunk held.

        Args:
            chunk: The directions that were computed.
            held_bytes: The chunk's peak above the level between chunks.
            load: How many times its tensors' bytes it really took, where kernels work in memory
                that no tensor shows.
            grows: Whether more was alive after the chunk than before; ``None`` if that cannot be
                told. All chunks are measured until one is seen that does not grow.
        """
        size, left = chunk.stop - chunk.start, self._terms.n_directions - chunk.stop
        as_predicted = held_bytes <= _TOLERANCE * (self.cost.fixed_bytes + self.cost.direction_bytes * size)
        self._samples[size] = held_bytes
        self._load = max(self._load, load)
        if grows is not None:
            self._level_holds = not grows
        if self._probes:
            del self._probes[0]
        elif as_predicted:
            self._checked = self._level_holds
            return
        self.cost = self._terms.fit(self._samples, self._load)
        if not self._probes and left:
            chosen = self._choose(left)
            stays = len(self._samples) == 1 and size <= chosen < _WORTH_A_NEW_SIZE * size
            self.chunk_size = size if stays else chosen

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
    ample_size = terms.room_bytes // max(1, _AMPLE_FACTOR * terms.guess_bytes)
    if ample_size < min(_AMPLE_SIZE, terms.n_directions):
        return [*TIGHT_PROBES]
    if not terms.batched:
        return [_LOOPED_SIZE]
    if terms.target_bytes is not None:
        ample_size = min(ample_size, max(_AMPLE_SIZE, terms.target_bytes // max(1, terms.guess_bytes)))
    return [even_chunk(terms.n_directions, ample_size)]
