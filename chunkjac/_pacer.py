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

# A first guess, before anything is measured. On 19 architectures in all modes a direction held
# 0.02 to 2 times the peak of its prologue beside its seed and its block, mostly 0.5 to 1 (an LSTM
# in reverse mode: 9).
_CAUTIOUS_PROLOGUES = 4

# A budget is ample if so many directions fit by the cautious guess; fewer are no good chunk.
_AMPLE_SIZE = 16

# A job is plain if it is one chunk, even if that holds so many times the cautious guess.
_PLAIN_FACTOR = 4

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
    def typical_bytes(self) -> int:
        """Return what a direction mostly holds, by the prologue."""
        return max(1, self.base.direction_bytes + self.base.prologue_bytes)

    @property
    def cautious_bytes(self) -> int:
        """Return what a direction hardly ever holds more than, by the prologue."""
        return max(1, self.base.direction_bytes + _CAUTIOUS_PROLOGUES * self.base.prologue_bytes)

    @property
    def is_plain(self) -> bool:
        """Tell whether the whole job is one chunk that fits many times over."""
        is_one_chunk = self.exact_size is None and self.batched and self._within_target
        return is_one_chunk and _PLAIN_FACTOR * self.n_directions * self.cautious_bytes <= self.room_bytes

    @property
    def _within_target(self) -> bool:
        """Tell whether all directions at once make no larger working set than is fast."""
        all_bytes = self.n_directions * self.typical_bytes
        return self.target_bytes is None or all_bytes < _WORTH_A_NEW_SIZE * self.target_bytes

    def first_size(self) -> int | None:
        """Return a good size for the first chunk; ``None`` if the budget is too tight to guess one."""
        size = min(self.room_bytes // self.cautious_bytes, self.n_directions)
        if size < min(_AMPLE_SIZE, self.n_directions):
            return None
        if not self.batched:
            return min(size, _LOOPED_SIZE)
        if self.target_bytes is not None and not self._within_target:
            size = min(size, max(_AMPLE_SIZE, self.target_bytes // self.typical_bytes))
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
        first_size = terms.first_size()
        self._probes = [] if self.chunk_size else [first_size] if first_size else [*TIGHT_PROBES]
        self._samples: dict[int, int] = {}
        self._margin = 1.0
        self._most = terms.n_directions  # nothing larger is tried again after running out of memory
        self._level_holds = False  # until a chunk has shown that what is alive between chunks does not grow
        self._checked = checked or (terms.trusting and terms.is_plain)
        self._is_watched = not self._checked

    def measures(self, chunk: slice, n_done: int) -> bool:
        """Tell whether a chunk must be measured: until two of its size have shown nothing new.

        A single direction runs other kernels than several do, so the first one is measured. And
        now and then a chunk is looked at again, since a function may begin to keep tensors late.

        Args:
            chunk: The directions that come next.
            n_done: How many chunks are finished.
        """
        if not self._is_watched:
            return not self._checked
        is_new_single = chunk.stop - chunk.start == 1 and 1 not in self._samples
        return not self._checked or is_new_single or _is_looked_at_again(n_done)

    def next_chunk(self, done: int) -> slice:
        """Return the directions that come next, after the first ``done``."""
        left = self._terms.n_directions - done
        if not self._probes and self.chunk_size is None:
            self.chunk_size = self._choose(left)
        size = self.chunk_size or min(self._probes[0], self._may_fit(), self._most)
        return slice(done, done + max(1, min(size, left)))

    def learn(self, chunk: slice, held_bytes: int, *, margin: float = 1.0, grows: bool | None = None) -> None:
        """Take in what a measured chunk held.

        Args:
            chunk: The directions that were computed.
            held_bytes: The chunk's peak above the level between chunks.
            margin: How many times its tensors' bytes it really took, where kernels work in memory
                that no tensor shows.
            grows: Whether more was alive after the chunk than before; ``None`` if that cannot be
                told. All chunks are measured until one is seen that does not grow.
        """
        size, left = chunk.stop - chunk.start, self._terms.n_directions - chunk.stop
        as_predicted = held_bytes <= _TOLERANCE * (self.cost.fixed_bytes + self.cost.direction_bytes * size)
        self._samples[size] = held_bytes
        self._margin = max(self._margin, margin)
        if grows is not None:
            self._level_holds = not grows
        if self._probes or not as_predicted or len(self._samples) > 1:
            self.cost = self._terms.fit(self._samples, self._margin)
        if self._probes:
            del self._probes[0]
            if not self._probes and left:
                self.chunk_size = self._after_probes(size, self._choose(left))
            return
        if left:
            chosen = self._choose(left)
            stays = as_predicted and (len(self._samples) == 1 or chosen < _WORTH_A_NEW_SIZE * size)
            self.chunk_size = size if stays else chosen
        self._checked = as_predicted and self._level_holds and self.chunk_size == size

    def _after_probes(self, size: int, chosen: int) -> int:
        """Return the size to go on with: that of a single probe, unless much larger ones fit.

        What one size tells of larger ones is an upper bound, seldom worth a new shape.
        """
        stays = len(self._samples) == 1 and size <= chosen < _WORTH_A_NEW_SIZE * size
        return size if stays else chosen

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


def _is_looked_at_again(n_done: int) -> bool:
    """Tell whether a chunk is one of 9, 16, 33, 64, 129, ...: ever fewer, odd and even in turn."""
    power = n_done.bit_length() - 1
    return n_done >= 9 and n_done == 2**power + power % 2
