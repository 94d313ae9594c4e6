"""How large the next chunk is, from what the chunks so far have held and taken.

The first chunks of a job are its probes: they are part of the result, and what they hold
gives the line from which the largest size follows. A budget that is plainly ample
starts with one good chunk at once, because small chunks are slow; a tight one with a careful chunk, and then
with as many directions as fit even if nothing of what that held is fixed. Below the largest size, that which takes the
least time is looked for while the job runs.
"""

from __future__ import annotations

from dataclasses import replace

from chunkjac._chunker.cost import Cost, even_chunk
from chunkjac._chunker.counting import Chunks
from chunkjac._chunker.first_guess import first_guess
from chunkjac._chunker.knee import Knee
from chunkjac._chunker.limits import WORTH_A_NEW_SIZE, Limits
from chunkjac._chunker.turns import Learnt, Measured, Turn

# What a function keeps for later (a cache, say) is no reason to plan anew.
_TOLERANCE = 1.02

# What a chunk holds less than that of was predicted for another way of computing it.
_FAR_BELOW = 0.95


class Pacer:
    """Choose chunk sizes, and learn from each chunk.

    Args:
        limits: What the job has to keep to.
        cost: The job's cost, if a plan knows it: then nothing is probed.
        chunk_size: The size of all chunks, if a plan knows it.
        chunks: Which chunks are measured.
        learnt: What earlier runs of the plan have learnt.

    Attributes:
        cost: What the job costs, as far as is known.
        chunk_size: The largest size of chunks after the probes; ``None`` while probing.
    """

    def __init__(
        self,
        limits: Limits,
        cost: Cost | None = None,
        chunk_size: int | None = None,
        *,
        chunks: Chunks = Chunks.NEW_SIZES,
        learnt: Learnt | None = None,
    ) -> None:
        self.cost = cost or limits.base
        self.chunk_size = limits.exact_size or chunk_size
        self._limits = limits
        self._learnt = learnt or Learnt()
        self._knee: Knee | None = None  # once there is a size to begin with
        self._even_size: int | None = None  # once the fastest size is found
        guess = first_guess(limits, chunks)
        is_new = self.chunk_size is None
        self._is_plain = is_new and guess.is_plain
        self._n_probes = guess.n_probes if is_new else 0  # chunks that are to tell what others hold
        self._probe_size = guess.size
        if self._is_plain:
            self.cost = replace(limits.base, direction_bytes=guess.direction_bytes)
            self.chunk_size = guess.most
            self._begin(guess.size)
        self._samples: dict[int, int] = {}
        self._wanted_sizes: set[int] = set()
        self._margin = 1.0
        self._most = limits.n_directions  # nothing larger is tried again after running out of memory
        self._level_holds = False  # until a chunk has shown that what is alive between chunks does not grow
        self._chunks = chunks
        self._checked = chunks is Chunks.NONE or self._is_plain
        self._trial_size = guess.trial_size if self._is_plain else limits.n_directions

    def turn(self, span: slice, n_done: int, wanted_size: int | None = None, *, is_new: bool = False) -> Turn:
        """Return what comes next.

        Args:
            span: The directions that are to be computed, in one or several chunks.
            n_done: How many chunks are finished.
            wanted_size: The only size that suits the way of computing; what is laid out for it holds the same in all
                chunks.
            is_new: Whether the way is new.
        """
        is_free, done = wanted_size is None, span.start
        stop = self.next_chunk(done).stop if wanted_size is None else done + wanted_size
        chunk = slice(done, min(stop, span.stop))
        if wanted_size is not None:
            is_new = is_new or wanted_size not in self._wanted_sizes
            self._wanted_sizes.add(wanted_size)
        is_measured = (is_free and self.measures(chunk, n_done)) or (is_new and self.measures_new)
        return Turn(chunk, is_free, is_new, is_measured)

    def measures(self, chunk: slice, n_done: int) -> bool:
        """Tell whether a chunk must be measured: until two of its size have shown nothing new.

        A single direction runs other kernels than several do, so the first one is measured; and so
        is the first of each size that is larger than those before. And now and then a chunk is
        looked at again, since a function may begin to keep tensors late.

        Args:
            chunk: The directions that come next.
            n_done: How many chunks are finished.
        """
        if self._chunks is Chunks.NONE:
            return not self._checked
        if not self._checked or _is_looked_at_again(n_done):
            return True
        size = chunk.stop - chunk.start
        is_new_single = size == 1 and 1 not in self._samples
        is_larger = self._knee is not None and size > max(self._samples, default=size)
        return not self._is_plain and (is_new_single or is_larger)

    @property
    def measures_new(self) -> bool:
        """Tell whether other ways of computing must be measured."""
        return self._chunks is not Chunks.NONE and not self._is_plain

    def next_chunk(self, done: int) -> slice:
        """Return the directions that come next, after the first ``done``."""
        left = self._limits.n_directions - done
        if not self._n_probes and self.chunk_size is None:
            self.chunk_size = self._choose(left)
        if self.chunk_size is None:
            probe_size = self._next_probe(left) if self._samples else self._probe_size
            size = min(probe_size, self._may_fit(), self._most)
        else:
            size = self._fastest(self.chunk_size, left)
        if not done:
            size = min(size, self._trial_size)
        return slice(done, done + max(1, min(size, left)))

    def time(self, chunk: slice, seconds: float) -> None:
        """Take in how long a chunk took that was not measured: counting bytes takes time."""
        if self._knee is not None:
            self._knee.learn(chunk.stop - chunk.start, seconds)
            self._learnt.chunk_size, self._learnt.is_settled = self._knee.size, self._knee.is_settled

    def _fastest(self, most: int, left: int) -> int:
        """Return the size that is fast, or tried for that; no larger than what fits."""
        if self._knee is None:
            start_size = self._limits.start_size(self.cost)
            if start_size is None:
                return most
            self._begin(start_size)
        assert self._knee is not None
        size = self._knee.next_size(most, left)
        if not self._knee.is_settled:
            return min(size, most)
        self._even_size = self._even_size or even_chunk(left, size)
        return min(self._even_size, most)

    def _begin(self, size: int) -> None:
        """Look for the fastest size from this one on, or from where the last run of the plan came to."""
        known = self._learnt.chunk_size
        self._knee = Knee(known or size, tries=known is None or not self._learnt.is_settled)

    def learn(self, chunk: slice, measured: Measured) -> None:
        """Take in what a measured chunk held; all are measured until one is seen that does not grow.

        Args:
            chunk: The directions that were computed.
            measured: What they held.
        """
        held_bytes = measured.held_bytes
        size, left = chunk.stop - chunk.start, self._limits.n_directions - chunk.stop
        predicted_bytes = self.cost.fixed_bytes + self.cost.direction_bytes * size
        as_predicted = held_bytes <= _TOLERANCE * predicted_bytes
        self._samples[size] = held_bytes
        self._margin = max(self._margin, measured.margin)
        if measured.grows is not None:
            self._level_holds = not measured.grows
        is_far = not as_predicted or held_bytes < _FAR_BELOW * predicted_bytes
        if self._n_probes or is_far or len(self._samples) > 1:
            self.cost = self._limits.fit(self._samples, self._margin)
        if self._n_probes:
            self._n_probes -= 1
            if not self._n_probes and left:
                self.chunk_size = self._after_probes(size, self._choose(left))
                self._checked = self._cannot_fail(size, held_bytes, left)
            return
        if left:
            chosen = self._choose(left)
            stays = as_predicted and (len(self._samples) == 1 or chosen < WORTH_A_NEW_SIZE * size)
            self.chunk_size = size if stays else chosen
        is_largest = self.chunk_size == size or self._knee is not None
        is_steady = (as_predicted and self._level_holds) or self._cannot_fail(size, held_bytes, left)
        self._checked = is_steady and is_largest

    def _cannot_fail(self, size: int, held_bytes: int, left: int) -> bool:
        """Tell whether chunks like one would fit even if each kept all that it holds; nobody asks whether they do."""
        n_chunks = 1 + -(-left // size)
        return self._chunks is not Chunks.NEW_SIZES and n_chunks * self._margin * held_bytes <= self._limits.room_bytes

    def _after_probes(self, size: int, chosen: int) -> int:
        """Return the size to go on with: that of a single probe, unless much larger ones fit.

        What one size tells of larger ones is an upper bound, seldom worth a new shape.
        """
        stays = len(self._samples) == 1 and size <= chosen < WORTH_A_NEW_SIZE * size
        return size if stays else chosen

    def shrink(self, failed_size: int) -> bool:
        """Halve after running out of memory; return whether there is anything to halve."""
        if failed_size == 1:
            return False
        self._most = -(-failed_size // 2)
        if self._samples:  # the smaller ones may have had lazy first-call work in them: no line goes through them
            largest = max(self._samples)
            self._samples = {largest: self._samples[largest]}
            self.cost = self._limits.fit(self._samples, self._margin)
        self.chunk_size = None
        self._checked = False
        return True

    def _choose(self, left: int) -> int:
        """Return the size for the rest of the job."""
        size = self._limits.choose(self.cost, left)
        return size if size <= self._most else even_chunk(left, self._most)

    def _next_probe(self, left: int) -> int:
        """Return how many directions tell more than those so far, and are fast."""
        if not self._limits.batched:
            return max(self._samples)
        size = max(2 * max(self._samples), self._limits.choose(self.cost, left))
        return min(size, self._limits.start_size(self.cost) or size)

    def _may_fit(self) -> int:
        """Return a size to probe with.

        It fits even if nothing of what the chunks held is fixed. Where that is no larger than
        what was measured, and so would tell nothing new, twice that is tried: if it does not
        fit, it is refused before it is computed.
        """
        shown_bytes = int(self._limits.room_bytes / self.cost.margin)  # what tensors may take
        if not self._samples:
            return max(1, shown_bytes // max(1, self._limits.base.direction_bytes))
        size = max(self._samples)
        surely = size * shown_bytes // max(1, self._samples[size])
        return surely if surely > size else 2 * size


def _is_looked_at_again(n_done: int) -> bool:
    """Tell whether a chunk is one of 9, 16, 33, 64, 129, ...: ever fewer, odd and even in turn."""
    power = n_done.bit_length() - 1
    return n_done >= 9 and n_done == 2**power + power % 2
