"""The arithmetic of memory: from measured chunks to the chunk size.

A job first runs its prologue (the forward pass of reverse mode, say), which peaks at
``prologue_bytes`` and leaves ``kept_bytes`` alive. Then the result is allocated, and a chunk
of k directions holds ``fixed_bytes + direction_bytes * k`` more. So the job's peak is::

    max(prologue_bytes, result_bytes + kept_bytes + fixed_bytes + direction_bytes * k)

and the largest chunk that fits is that formula solved for k.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Sizes that tell the line in a dry run, or in a plan's real chunks; the measure of the first is overwritten by
# that of the second (lazy first-call work), and size 1 runs other kernels.
TIGHT_PROBES = (2, 2, 8)


@dataclass(frozen=True, slots=True)
class Cost:
    """Hold the bytes of a job, above the level when it was called.

    Attributes:
        prologue_bytes: The peak of what runs once, before the result is allocated.
        kept_bytes: What the prologue leaves alive.
        result_bytes: The result, if it counts.
        fixed_bytes: What a chunk takes whatever its size.
        direction_bytes: What each direction of a chunk takes.
        margin: How many times its tensors' bytes a chunk may really take, where kernels work
            in memory that no tensor shows.
    """

    prologue_bytes: int
    kept_bytes: int
    result_bytes: int
    fixed_bytes: int
    direction_bytes: int
    margin: float = 1.0

    def peak_bytes(self, chunk_size: int) -> int:
        """Return the job's peak with chunks of this size."""
        return max(self.prologue_bytes, self.level_bytes + self.fixed_bytes + self.direction_bytes * chunk_size)

    @property
    def level_bytes(self) -> int:
        """Return what is alive between chunks."""
        return self.result_bytes + self.kept_bytes

    @property
    def smallest_bytes(self) -> int:
        """Return the least budget that the job runs in: one direction at a time."""
        return self.peak_bytes(1)


def fit_chunks(samples: Mapping[int, int]) -> tuple[int, int]:
    """Return fixed bytes and bytes per direction from measured chunks.

    The line goes through the two largest chunks measured: memory is linear in their size
    (exact in 31 of 32 measured functions, 2.2 % off in one), but not at size 1, where other
    kernels run.

    Args:
        samples: Chunk size to bytes held above the level between chunks; not empty.
    """
    *smaller, large = sorted(samples)
    if not smaller:
        return 0, -(-samples[large] // large)
    small = smaller[-1]
    direction_bytes = max(0, -(-(samples[large] - samples[small]) // (large - small)))
    return max(0, samples[large] - direction_bytes * large), direction_bytes


def largest_chunk(cost: Cost, budget_bytes: int) -> int:
    """Return the largest chunk size whose peak fits; 0 if none does.

    A single direction is allowed without the cost's margin, rather than refused.
    """
    if cost.smallest_bytes > budget_bytes:
        return 0
    chunk_bytes = int((budget_bytes - cost.result_bytes) / cost.margin) - cost.kept_bytes - cost.fixed_bytes
    return max(1, chunk_bytes // max(1, cost.direction_bytes))


def even_chunk(n_directions: int, chunk_size: int) -> int:
    """Return the size that gives no more chunks than ``chunk_size`` does, evenly filled.

    Fewest chunks first, then least left over: 18 directions by 12 make 9 + 9, not 12 + 6.

    Source:
        ForwardDiff.jl, its rule for choosing a chunk size.
    """
    if not n_directions:
        return 1
    n_chunks = -(-n_directions // min(chunk_size, n_directions))
    return -(-n_directions // n_chunks)


def choose_chunk(cost: Cost, n_directions: int, budget_bytes: int, target_bytes: int | None) -> int:
    """Return the chunk size for a job: what fits, no larger than what is fast, evenly filled.

    Args:
        cost: The job's cost.
        n_directions: How many directions there are to do.
        budget_bytes: What the job may hold.
        target_bytes: The working set beyond which chunks do not get faster; ``None`` if unknown.
    """
    size = largest_chunk(cost, budget_bytes)
    if target_bytes is not None:
        size = min(size, (target_bytes - cost.fixed_bytes) // max(1, cost.direction_bytes))
    return even_chunk(n_directions, max(1, size))
