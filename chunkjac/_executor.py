"""The one loop: blocks are made and written, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Protocol

from chunkjac._backoff import is_out_of_memory, reclaim
from chunkjac._errors import add_note
from chunkjac._memory import LiveBytes, OverBudget
from chunkjac._modes import Block, Mode, n_directions
from chunkjac._pacer import Pacer


class Sink(Protocol):
    """Take blocks."""

    def write(self, chunk: slice, block: Block) -> None:
        """Write a block into its place."""
        ...


def fill(
    sink: Sink,
    mode: Mode,
    pacer: Pacer,
    tracker: LiveBytes,
    sizes: list[int],
    *,
    advance: Callable[[int], object],
    halves_over_budget: bool = True,
) -> int:
    """Write the Jacobian block by block; no second copy of it ever exists.

    A chunk that runs out of memory is tried again at half its size, from where it began:
    what is finished stays, and nothing is computed twice.

    Args:
        sink: Where blocks go.
        mode: What makes them.
        pacer: What says how large each chunk is.
        tracker: What counts live bytes; it runs only for chunks that tell something new.
        sizes: Takes the directions of each finished chunk, also when this raises.
        advance: Is told how many directions each chunk finished.
        halves_over_budget: Whether the tracker's limit is treated like running out of memory.

    Returns:
        How often memory ran out and a smaller chunk was tried.

    Raises:
        OverBudget: One direction (or the exact chunk) does not fit in the tracker's limit.
    """
    total, done = n_directions(mode), 0
    n_retries, level_bytes = 0, tracker.live_bytes
    while done < total:
        chunk, measured = pacer.next_chunk(done), pacer.measures
        tracker.restart_peak()
        try:
            with tracker if measured else nullcontext():
                sink.write(chunk, mode.block(chunk))
        except BaseException as error:
            # Only the decision leaves this block: the traceback holds the chunk's tensors.
            retry = _may_retry(error, halves_over_budget) and pacer.shrink(chunk.stop - chunk.start)
            if not retry:
                _say_where(error, mode, chunk, len(sizes), total)
                raise
        else:
            retry = False
        if retry:
            n_retries += 1
            mode.release()
            reclaim(mode.problem.device)
            continue
        if measured:
            pacer.learn(chunk, tracker.peak_bytes - level_bytes, scratch=tracker.hidden_scratch)
        done = chunk.stop
        sizes.append(chunk.stop - chunk.start)
        advance(sizes[-1])
    return n_retries


def _may_retry(error: BaseException, halves_over_budget: bool) -> bool:
    """Tell whether a smaller chunk may do what this one could not."""
    if isinstance(error, OverBudget):
        return halves_over_budget
    return is_out_of_memory(error)


def _say_where(error: BaseException, mode: Mode, chunk: slice, n_done: int, total: int) -> None:
    """Add to the user's own exception where it happened, and what is finished."""
    finished = f"directions 0:{chunk.start} of {total} are finished" if chunk.start else "none is finished"
    add_note(
        error,
        f"chunkjac: this happened at chunk {n_done + 1}, directions {chunk.start}:{chunk.stop}, "
        f"in mode {mode.name!r} ({mode.rung}); {finished}.",
    )
