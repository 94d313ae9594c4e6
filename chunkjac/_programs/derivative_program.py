"""When a derivative is recorded, and for how many directions at once; its replay."""

from __future__ import annotations

import time
from math import inf

from chunkjac._chunker import even_chunk
from chunkjac._programs.recording import PlainDerivative, Recording
from chunkjac._programs.records import SHORT_S, Records
from chunkjac._programs.replay.running import Running
from chunkjac._programs.sizes import LEAST_SIZE, is_worth_a_trial, knee_of, largest_size, smaller_size
from chunkjac._programs.usage import Usage
from chunkjac._programs.worth import derivatives_pay, why_no_faster
from chunkjac._tensors import Tensors

# Counting takes as long as a small operation itself: only chunks of so many directions tell what a direction takes.
_TELLING_SIZE = 8

# So many runs are timed before one is given up: others may use the machine.
_TURNS = 2


class DerivativeProgram:
    """Make blocks by a linear program, once that is worth recording one.

    Args:
        plain: The derivative.
        records: What the plan has so far; it takes what this run records.
        usage: What this run lets programs do.

    Attributes:
        recording: What is recorded.
        size: How many directions the program in use takes.
        chunk_bytes: What a chunk takes beside its memory.
    """

    def __init__(self, plain: PlainDerivative, records: Records, usage: Usage) -> None:
        self.recording = Recording(plain, records)
        self._plain, self._records, self._record = plain, records, records.of(plain.way)
        self._usage = usage
        self._each_s = 0.0  # what a direction takes, but for what its chunk takes whatever its size
        self._running: Running | None = None
        self.size = self._nominal_size = self.chunk_bytes = 0
        self._n_to_make = 0
        self._most: int | None = None
        self._n_done = 0  # chunks of this size so far
        self._starting_s = 0.0
        self._least_s = inf  # that a direction has taken, in chunks after the first of their size

    @property
    def is_ready(self) -> bool:
        """Tell whether a program is in memory."""
        return self._running is not None

    @property
    def is_new(self) -> bool:
        """Tell whether no block of the program in use was compared with one direction."""
        return self.size not in self._record.proven

    def note(self, n_directions: int, seconds: float, overhead_s: float) -> None:
        """Take in how long directions take without a program, and how much of that whatever their number."""
        if self._usage.is_counted and n_directions < min(_TELLING_SIZE, self._plain.directions.n):
            return
        self._record.direction_s = min(seconds / n_directions, self._record.direction_s)
        self._each_s = max(seconds / 8, seconds - overhead_s) / n_directions

    def is_due(self, n_left: int) -> bool:
        """Tell whether a program is worth it for so many directions."""
        if self._record.refused or not self._usage.is_timed:
            return not self._record.refused
        plain, each_s = self._plain, self._each_s
        return n_left > 1 and derivatives_pay(
            self._records, plain.way, n_left, each_s, plain.evaluation_s, plain.n_nodes
        )

    def is_known(self, n_left: int) -> bool:
        """Tell whether what comes next is a program that an earlier run has laid out and compared."""
        return self._record.trace is not None and self.is_due(n_left) and self._next_size(n_left) in self._record.proven

    def wanted_size(self, n_left: int) -> int:
        """Return how many directions come next, with a program for them in memory.

        Raises:
            NotLinearError: No program can be made of the function.
        """
        if self._running is None:
            self.recording.have_trace()
        size = self._next_size(n_left)
        if size != self.size or self._running is None:
            self._put_back()
            if self._usage.is_counted:
                size = self._fitting_size(size, n_left)
                self._record.hold_only(size)
            self.size, self._n_done = size, 0
            started_s = time.perf_counter()
            self._running = self.recording.started(size, self._usage)
            self.chunk_bytes = self._running.program.step.loose_bytes
            self._starting_s = time.perf_counter() - started_s
        return min(size, n_left)

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Make a block of at most as many directions as were settled on, in the places that are lent for it."""
        assert self._running is not None
        started_s = time.perf_counter()
        n_rows = chunk.stop - chunk.start
        block = self._running.block(chunk.start, places)
        if n_rows < self.size:
            block = tuple(values[:n_rows] for values in block)
        self._n_done += 1
        if self._n_done > 1:  # the first has page faults in it
            each_s = (time.perf_counter() - started_s) / self.size
            self._least_s = min(self._least_s, each_s)
            if self._n_done == 2 and self._record.knee is not None:
                self._record.knee.learn(self._nominal_size, each_s * self._nominal_size)
        return block

    def refuse(self, why: str) -> None:
        """Take note that no program can be made."""
        self._running = None
        self.recording.close()
        self._record.forget()
        self._record.refused = why

    def release(self) -> None:
        """Let go of the program's memory, and of the values that it uses."""
        self._put_back()
        self.recording.close()

    def shrink(self) -> bool:
        """Take half as many directions at once, if a direction was recorded; return whether that is worth it."""
        self._running, self._record.knee = None, None
        self._most = -(-self.size // 2)
        is_recorded = bool(self.recording.made)
        return is_recorded and self._usage.exact_size is None and self._most >= LEAST_SIZE // 2

    def finish(self, seconds: float) -> None:
        """Take note of how long all chunks took, unless recording is in that; give up what is slower in a long job."""
        record = self._record
        if record.knee is not None and record.knee.is_settled:
            record.keep_only(self.size)
        if self._records.compiles or not self._usage.is_timed:
            return
        if self._least_s < inf and seconds > SHORT_S and (why := why_no_faster(self._least_s, record.direction_s)):
            self.refuse(why)
        if record.refused or self.recording.has_recorded:
            return
        record.steps_s.append(seconds / self._plain.directions.n)
        if seconds > SHORT_S and len(record.steps_s) >= _TURNS:
            record.refused = record.why_slower()

    def _fitting_size(self, size: int, n_left: int) -> int:
        """Return a size, or where its program would take more than there is room for, a smaller one."""
        needed_bytes: dict[int, int] = {}
        while self._usage.exact_size is None and size not in self._record.proven:
            self.size = size  # so that this is halved if there is no room to record it
            needed_bytes[size] = self.recording.program(size).most_bytes + size * self._plain.seed_bytes
            most = smaller_size(needed_bytes, self._usage.room)
            if most is None:
                break
            del self._record.programs[size]
            self._most, self._record.knee = most, None
            size = self._next_size(n_left)
        return size

    def _next_size(self, n_left: int) -> int:
        """Return the fastest size, or one that is tried for that."""
        plain, usage = self._plain, self._usage
        if usage.exact_size is not None:
            return min(usage.exact_size, plain.directions.n)
        self._n_to_make = self._n_to_make or n_left
        largest = largest_size(self._record, plain.seed_bytes, usage.room, self._most)
        knee = knee_of(self._record, plain.evaluation_s, largest, n_left)
        size = knee.next_size(largest, n_left)
        if size not in (knee.size, self._nominal_size):
            is_worth = is_worth_a_trial(self._starting_s, n_left * knee.step_s, is_kept=self._records.is_kept)
            size = size if is_worth else knee.size
        self._nominal_size = size
        return even_chunk(self._n_to_make, min(size, self._n_to_make))

    def _put_back(self) -> None:
        """Keep a program in memory for the next run, if it is small."""
        running, self._running = self._running, None
        if running is not None:
            self.recording.put_back(running, self._usage)
