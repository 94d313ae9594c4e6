"""How many directions a program takes at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chunkjac._chunker import ChunkRoom, Knee, even_chunk, fit_chunks
from chunkjac._programs.records import ModeRecord
from chunkjac._programs.tracing import Trace

# What one direction needs at once, times the directions. Of 8 to 512 directions those that took 8-32 MiB were within
# a fifth of the fastest on 17 of 23 functions; the others spend their time on calls, or on reading weights.
_WORKING_BYTES, _MOST_BYTES, LEAST_SIZE = 16 * 2**20, 96 * 2**20, 4

# A call takes so long whatever its size, and so does reading a byte of the weights: a small part of a chunk's time.
_CALL_S, _READ_S, _OVERHEAD_SHARE = 2.5e-6, 1e-10, 0.1

# Where another run may follow, a size is tried if so many times what it takes to lay out is left; else so many.
_WORTH_A_TRIAL, _WORTH_A_TRIAL_ONCE = 8, 40

# Of perturbed copies, the largest tensor of a chunk takes so much, and stays in the caches. The chunk
# that is recorded is one of so many, as it takes as long as any other without a program.
_CACHED_BYTES, _N_CHUNKS, _LEAST_COPIES = 4 * 2**20, 6, 16

# A size is settled on, where memory is counted, once so many chunks have led to it.
_N_SETTLING = 2


def knee_of(record: ModeRecord, evaluation_s: float, largest: int, n_left: int) -> Knee:
    """Return what finds the fastest size, from one at which neither calls and weights nor caches should matter much.

    Args:
        record: What is remembered of the mode, a direction among it.
        evaluation_s: How long an evaluation takes.
        largest: The most directions that may be taken.
        n_left: How many are left.
    """
    if record.knee is None:
        assert record.trace is not None
        size = max(LEAST_SIZE, _WORKING_BYTES // record.trace.direction_bytes)
        direction_s = min(record.direction_s, evaluation_s)
        if direction_s > 0:
            size = max(size, int(_overhead_s(record.trace) / (_OVERHEAD_SHARE * direction_s)))
        record.knee = Knee(even_chunk(n_left, max(1, min(size, largest, n_left))))
    return record.knee


def _overhead_s(trace: Trace) -> float:
    """Return what a chunk takes whatever its size."""
    return _CALL_S * len(trace.graph.nodes) + _READ_S * trace.read_bytes


def largest_size(record: ModeRecord, seed_bytes: int, room: ChunkRoom, most: int | None) -> int:
    """Return the most directions that fit, and may still be fast.

    Args:
        record: What is remembered of the mode, a direction among it.
        seed_bytes: What a seed takes.
        room: What a chunk may hold.
        most: As many as are known to fit; ``None`` if that is unknown.
    """
    assert record.trace is not None
    each_bytes = record.trace.direction_bytes + seed_bytes
    size = max(LEAST_SIZE, min(_MOST_BYTES // each_bytes, _WORKING_BYTES // max(1, seed_bytes)))
    return max(1, min(size, room.unsure_bytes // each_bytes, most or size))


def is_worth_a_trial(starting_s: float, left_s: float, *, is_kept: bool) -> bool:
    """Tell whether so much time is left that laying out another size is a small part of it.

    Args:
        starting_s: How long that takes.
        left_s: How long all takes that is left.
        is_kept: Whether another run may follow.
    """
    return 0 < (_WORTH_A_TRIAL if is_kept else _WORTH_A_TRIAL_ONCE) * starting_s < left_s


def smaller_size(needed_bytes: Mapping[int, int], room: ChunkRoom) -> int | None:
    """Return a smaller size where the smallest needs more than there is room for, if that is worth it.

    Args:
        needed_bytes: What is needed, by size.
        room: What a chunk may hold.
    """
    size = min(needed_bytes)
    fixed_bytes, each_bytes = fit_chunks(needed_bytes)
    most = min(size - 1, (room.sure_bytes - fixed_bytes) // max(1, each_bytes))
    return None if needed_bytes[size] <= room.sure_bytes or most < LEAST_SIZE // 2 else most


def evaluations_at_once(n_left: int, each_bytes: int, *, exact_size: int | None) -> int:
    """Return how many directions a program for perturbed copies is to take.

    Args:
        n_left: How many are left.
        each_bytes: What the largest tensor of one takes.
        exact_size: How many the user wants.
    """
    cached = max(_LEAST_COPIES, _CACHED_BYTES // max(1, each_bytes))
    size = exact_size or min(cached, -(-n_left // _N_CHUNKS))
    return even_chunk(n_left, min(size, n_left))


def settled_size(sizes: Sequence[int]) -> int:
    """Return the size that chunks have come to; 0 while it changes."""
    *_, last, size = (0, 0, *sizes)
    return size if len(sizes) > _N_SETTLING and last == size else 0
