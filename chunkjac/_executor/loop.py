"""The one loop: blocks are made and written, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

from chunkjac._chunker import Pacer
from chunkjac._errors import add_note
from chunkjac._memory import Growth, LiveBytes, OverBudget, is_out_of_memory, reclaim
from chunkjac._modes import Mode, OtherWayError
from chunkjac._sinks import Sink


@dataclass(slots=True)
class Log:
    """Hold what has happened so far; it is there also when the loop ends in an exception.

    Attributes:
        chunk_sizes: The directions of each finished chunk.
        n_retries: How often memory ran out and a smaller chunk was tried.
        level: What is alive between chunks; ``None`` before the first.
    """

    chunk_sizes: list[int] = field(default_factory=list)
    n_retries: int = 0
    growth: Growth | None = None

    @property
    def symptom(self) -> str | None:
        """Name what a function does that keeps memory, if it does."""
        return self.growth.symptom if self.growth is not None else None

    @property
    def growth_bytes(self) -> int:
        """Return what the function kept, as far as it was seen."""
        return self.growth.growth_bytes if self.growth is not None else 0


def filled(
    sink: Sink,
    mode: Mode,
    pacer: Pacer,
    tracker: LiveBytes,
    log: Log,
    *,
    advance: Callable[[int], object],
    halves_over_budget: bool = True,
    spans: Sequence[slice] | None = None,
) -> Iterator[slice]:
    """Write the Jacobian block by block, and yield what was written; no second copy of it ever exists.

    Nothing is computed before it is asked for. A chunk that runs out of memory is tried again at half its size, from
    where it began: what is finished stays, and nothing is computed twice.

    Args:
        sink: Where blocks go.
        mode: What makes them.
        pacer: What says how large each chunk is.
        tracker: What counts live bytes; it runs only for chunks that tell something new.
        log: Takes what happens.
        advance: Is told how many directions each chunk finished.
        halves_over_budget: Whether the tracker's limit is treated like running out of memory.
        spans: The directions that are to be computed, in order; ``None`` for all.

    Raises:
        OverBudget: One direction (or the exact chunk) does not fit in the tracker's limit.
    """
    total = mode.directions.n
    growth = log.growth = Growth(tracker)
    ahead = [slice(0, total)] if spans is None else [*spans]
    while ahead:
        done, stop = ahead[0].start, ahead[0].stop
        with tracker if pacer.measures_new and not mode.repeats_what_was_counted(total - done) else nullcontext():
            settled_size = mode.wanted_size(total - done)
        chunk = pacer.next_chunk(done) if settled_size is None else slice(done, done + settled_size)
        chunk = slice(done, min(chunk.stop, stop))
        size, before_bytes, is_new = chunk.stop - chunk.start, tracker.live_bytes, mode.is_new
        if settled_size is None:
            measured = pacer.measures(chunk, len(log.chunk_sizes))
        else:
            measured = is_new and pacer.measures_new  # what is laid out holds the same in all chunks
        tracker.restart_peak()
        started_s = time.perf_counter()
        retry = is_smaller = False
        try:
            with growth.measured() if measured else nullcontext():
                sink.write(chunk, mode.block(chunk, sink.places(chunk)))
        except OtherWayError:
            retry = True
        except BaseException as error:
            # Only the decision leaves this block: the traceback holds the chunk's tensors.
            retry = is_smaller = _may_retry(error, halves_over_budget) and pacer.shrink(size)
            if not retry:
                _say_where(error, mode, chunk, len(log.chunk_sizes), total)
                raise
        if retry:
            if is_smaller:
                log.n_retries += 1
                mode.release()
                sink.release()
            growth.forget_buffers()
            reclaim(mode.problem.device)
            continue
        if is_new:
            growth.forget_buffers()
        if measured:
            held_bytes, margin = tracker.peak_bytes - growth.start_bytes, tracker.margin
            pacer.learn(chunk, held_bytes, margin=margin, grows=growth.grows(size, before_bytes))
        elif settled_size is None:
            pacer.time(chunk, time.perf_counter() - started_s)
        ahead[:1] = [slice(chunk.stop, stop)] if chunk.stop < stop else []
        log.chunk_sizes.append(size)
        advance(size)
        yield chunk


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
