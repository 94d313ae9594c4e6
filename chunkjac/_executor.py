"""The one loop: blocks are made and written, chunk by chunk."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from chunkjac._backoff import is_out_of_memory, reclaim
from chunkjac._errors import add_note
from chunkjac._memory import LiveBytes, OverBudget
from chunkjac._modes import Block, Mode, n_directions
from chunkjac._pacer import Pacer
from chunkjac._units import format_bytes


class Sink(Protocol):
    """Take blocks."""

    def write(self, chunk: slice, block: Block) -> None:
        """Write a block into its place."""
        ...


@dataclass(slots=True)
class Log:
    """Hold what has happened so far; it is there also when the loop ends in an exception.

    Attributes:
        chunk_sizes: The directions of each finished chunk.
        n_retries: How often memory ran out and a smaller chunk was tried.
        growths_bytes: What each chunk left alive that had not been alive before it, where that can be told.
    """

    chunk_sizes: list[int] = field(default_factory=list)
    n_retries: int = 0
    growths_bytes: list[int] = field(default_factory=list)

    @property
    def growth(self) -> str | None:
        """Name the symptom of a function that keeps tensors; ``None`` if it does not, or no longer (a cache)."""
        if not (self.growths_bytes and self.growths_bytes[-1]):
            return None
        return (
            f"func keeps memory: {format_bytes(self.growths_bytes[-1])} more were alive after a chunk than before it, "
            f"{format_bytes(sum(self.growths_bytes))} in all; it may collect tensors in a list, a cache or a hook"
        )


def fill(
    sink: Sink,
    mode: Mode,
    pacer: Pacer,
    tracker: LiveBytes,
    log: Log,
    *,
    advance: Callable[[int], object],
    halves_over_budget: bool = True,
) -> None:
    """Write the Jacobian block by block; no second copy of it ever exists.

    A chunk that runs out of memory is tried again at half its size, from where it began:
    what is finished stays, and nothing is computed twice.

    Args:
        sink: Where blocks go.
        mode: What makes them.
        pacer: What says how large each chunk is.
        tracker: What counts live bytes; it runs only for chunks that tell something new.
        log: Takes what happens.
        advance: Is told how many directions each chunk finished.
        halves_over_budget: Whether the tracker's limit is treated like running out of memory.

    Raises:
        OverBudget: One direction (or the exact chunk) does not fit in the tracker's limit.
    """
    total, done = n_directions(mode), 0
    start_bytes, buffered = tracker.live_bytes, 0
    while done < total:
        chunk, measured = pacer.next_chunk(done), pacer.measures
        size, before_bytes = chunk.stop - chunk.start, tracker.live_bytes
        tracker.restart_peak()
        try:
            with tracker if measured else nullcontext():
                sink.write(chunk, mode.block(chunk))
        except BaseException as error:
            # Only the decision leaves this block: the traceback holds the chunk's tensors.
            retry = _may_retry(error, halves_over_budget) and pacer.shrink(size)
            if not retry:
                _say_where(error, mode, chunk, len(log.chunk_sizes), total)
                raise
        else:
            retry = False
        if retry:
            log.n_retries += 1
            mode.release()
            reclaim(mode.problem.device)
            buffered = 0
            continue
        if measured:
            # A chunk for which no buffer had to be made leaves the level as it found it.
            grows = tracker.live_bytes > before_bytes if size <= buffered else None
            if grows:
                gc.collect()  # garbage in cycles is not kept by anybody
            if grows is not None:
                log.growths_bytes.append(max(0, tracker.live_bytes - before_bytes))
            pacer.learn(chunk, tracker.peak_bytes - start_bytes, load=tracker.load(start_bytes), grows=grows)
        buffered = max(buffered, size)
        done = chunk.stop
        log.chunk_sizes.append(size)
        advance(size)


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
