"""The one loop: blocks are made and written, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from enum import Enum

from chunkjac._chunker import Measured, Pacer, Turn
from chunkjac._errors import add_note
from chunkjac._memory import Growth, LiveBytes, OverBudget, is_out_of_memory, reclaim
from chunkjac._modes import Mode, OtherWayError
from chunkjac._problem import check_computed
from chunkjac._sinks import Sink


@dataclass(slots=True)
class Log:
    """Hold what has happened so far; it is there also when the loop ends in an exception.

    Attributes:
        chunk_sizes: The directions of each finished chunk.
        n_retries: How often memory ran out and a smaller chunk was tried.
        growth: What is alive between chunks; ``None`` before the first.
        most_free: The most directions of a chunk that any size would have done for: by no program.
        program_bytes: The most that is held by programs, as was known before each chunk.
    """

    chunk_sizes: list[int] = field(default_factory=list)
    n_retries: int = 0
    growth: Growth | None = None
    most_free: int = 0
    program_bytes: int = 0

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
    halves_over_budget: bool = True,
    spans: Iterable[slice] | None = None,
) -> Iterator[slice]:
    """Write the Jacobian block by block, and yield what was written; no second copy of it ever exists.

    Nothing is computed before it is asked for. A chunk that runs out of memory is tried again at half its size, from
    where it began: what is finished stays, and nothing is computed twice. What cannot be halved is tried once more when
    what earlier chunks have left is given back: their buffers, and a program.

    Args:
        sink: Where blocks go.
        mode: What makes them.
        pacer: What says how large each chunk is.
        tracker: What counts live bytes; it runs only for chunks that tell something new.
        log: Takes what happens.
        halves_over_budget: Whether the tracker's limit is treated like running out of memory.
        spans: The directions that are to be computed, in order; ``None`` for what the sink misses. Each is asked
            for when those before it are finished, so that several processes may share what is left.

    Raises:
        OverBudget: One direction (or the exact chunk) does not fit in the tracker's limit.
    """
    growth = log.growth = Growth(tracker)
    bare_start: int | None = None  # of a chunk that is tried with nothing beside it
    for turn in _turns(mode, pacer, tracker, log, sink.missing(mode.directions.n) if spans is None else spans):
        before_bytes, started_s, again = tracker.live_bytes, time.perf_counter(), None
        tracker.restart_peak()
        if not turn.is_free:
            needed_bytes = before_bytes + mode.program_bytes(pacer.cost.direction_bytes)
            log.program_bytes = max(log.program_bytes, needed_bytes)
        try:
            with growth.measured() if turn.is_measured else nullcontext():
                _write(sink, mode, turn.chunk)
        except BaseException as error:
            # Only the decision leaves this block: the traceback holds the chunk's tensors.
            again = _again(error, turn, pacer, halves_over_budget)
            if again is None and is_out_of_memory(error) and turn.chunk.start != bare_start:
                again, bare_start = _Again.SMALLER, turn.chunk.start
            if again is None:
                _say_where(error, mode, turn.chunk, len(log.chunk_sizes))
                raise
        if again is not None:
            _begin_again(again, sink, mode, growth, log)
            continue
        if turn.is_new:
            growth.forget_buffers()
        if turn.is_measured:
            grows = growth.grows(turn.size, before_bytes)
            if turn.is_free:  # no line goes through what chunks hold that are made in different ways
                pacer.learn(turn.chunk, Measured(tracker.peak_bytes - growth.start_bytes, tracker.margin, grows))
        elif turn.is_free:
            pacer.time(turn.chunk, time.perf_counter() - started_s)
        if turn.is_free:
            log.most_free = max(log.most_free, turn.size)
        log.chunk_sizes.append(turn.size)
        yield turn.chunk
    with tracker if pacer.measures_new else nullcontext():
        is_confirmed = mode.is_confirmed()
    if not is_confirmed:
        sink.begin_again()
        yield from filled(sink, mode, pacer, tracker, log, halves_over_budget=halves_over_budget)


def _write(sink: Sink, mode: Mode, chunk: slice) -> None:
    """Make a block and write it; nothing here holds it after that."""
    block = mode.block(chunk, sink.places(chunk))
    check_computed(block, mode.problem.inputs)
    sink.write(chunk, block)


def _turns(mode: Mode, pacer: Pacer, tracker: LiveBytes, log: Log, spans: Iterable[slice]) -> Iterator[Turn]:
    """Yield what comes next; what was not finished when the next is asked for begins where it began."""
    total = mode.directions.n
    for span in spans:
        done = span.start
        while done < span.stop:
            n_done = len(log.chunk_sizes)
            is_counted = pacer.measures_new and not mode.repeats_what_was_counted(total - done)
            with tracker if is_counted else nullcontext():
                wanted_size = mode.wanted_size(total - done)
            turn = pacer.turn(slice(done, span.stop), n_done, wanted_size, is_new=mode.is_new)
            yield turn
            if len(log.chunk_sizes) > n_done:
                done = turn.chunk.stop


class _Again(Enum):
    """How a chunk is computed again."""

    OTHER_WAY = "the mode goes on in another way"
    SMALLER = "memory ran out: fewer directions, or nothing beside them"


def _again(error: BaseException, turn: Turn, pacer: Pacer, halves_over_budget: bool) -> _Again | None:
    """Return how a chunk that failed is computed again; ``None`` where nothing helps."""
    if isinstance(error, OtherWayError):
        return _Again.OTHER_WAY
    may_halve = halves_over_budget if isinstance(error, OverBudget) else is_out_of_memory(error)
    return _Again.SMALLER if may_halve and pacer.shrink(turn.size) else None


def _begin_again(again: _Again, sink: Sink, mode: Mode, growth: Growth, log: Log) -> None:
    """Give back what the failed chunk has taken."""
    if again is _Again.SMALLER:
        log.n_retries += 1
        mode.release()
        sink.release()
    growth.forget_buffers()
    reclaim(mode.problem.device, ran_out=again is _Again.SMALLER)


def _say_where(error: BaseException, mode: Mode, chunk: slice, n_done: int) -> None:
    """Add to the user's own exception where it happened, and what is finished."""
    total = mode.directions.n
    finished = f"directions 0:{chunk.start} of {total} are finished" if chunk.start else "none is finished"
    add_note(
        error,
        f"chunkjac: this happened at chunk {n_done + 1}, directions {chunk.start}:{chunk.stop}, "
        f"in mode {mode.name!r} ({mode.rung}); {finished}.",
    )
