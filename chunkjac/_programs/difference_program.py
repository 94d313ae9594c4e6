"""When the evaluation of a batch of perturbed copies is recorded, and replayed."""

from __future__ import annotations

import time
from math import inf

import torch

from chunkjac._memory import first_line, is_out_of_memory
from chunkjac._programs.graph.recorder import NotLinearError
from chunkjac._programs.plain_evaluation import PlainEvaluation
from chunkjac._programs.records import ModeRecord
from chunkjac._programs.replay.running import Running
from chunkjac._programs.sizes import evaluations_at_once, settled_size
from chunkjac._programs.usage import Usage
from chunkjac._programs.worth import evaluations_pay
from chunkjac._tensors import Tensors

# The last chunk may be smaller: this part of a program's size is evaluated by it, with some directions twice.
_WORTH_A_WHOLE = 0.5

# So many chunks tell whether a program is slower.
_TURNS = 2


class DifferenceProgram:
    """Evaluate chunks by a program, once that is worth recording one; there is one at most in a run.

    A program has no Python between its operations, writes their results where they were the last time,
    multiplies by whatever library is fastest, and does not compute what the copies have in common.

    Args:
        evaluation: How copies are evaluated without one.
        record: What is remembered of the mode.
        usage: What this run lets programs do.
    """

    def __init__(self, evaluation: PlainEvaluation, record: ModeRecord, usage: Usage) -> None:
        self._of = evaluation
        self._record = record
        self._usage = usage
        self._running: Running | None = None
        self._size = 0
        self._is_proven = False
        self._plain_sizes: list[int] = []
        self._last_s = self._least_s = inf  # for a direction: without a program, and by it
        self._n_done = 0
        self._is_over = False
        self._ahead: tuple[slice, Tensors] | None = None  # what recording has computed

    @property
    def refused(self) -> str:
        """Say why there is no program; empty where that is not so."""
        return self._record.refused

    @property
    def was_used(self) -> bool:
        """Tell whether any chunk was evaluated by a program."""
        return self._is_proven and self._n_done > 0

    def chunk_bytes(self, direction_bytes: int) -> int:
        """Return what a chunk takes beside the program's memory: its columns, and what it is compared with."""
        columns_bytes = self._size * sum(leaf.n_bytes for leaf in self._of.seen.outputs.leaves)
        compared_bytes = 0 if self._is_proven else self._size * direction_bytes
        loose_bytes = 0 if self._running is None else self._running.program.step.loose_bytes
        return columns_bytes + max(loose_bytes, compared_bytes)

    @property
    def is_new(self) -> bool:
        """Tell whether the next chunk is the first that a program evaluates."""
        return self._running is not None and not self._n_done

    def note(self, size: int, seconds: float) -> None:
        """Take in how long a chunk took without a program."""
        self._plain_sizes.append(size)
        self._last_s = seconds / size
        self._record.direction_s = min(self._last_s, self._record.direction_s)

    def wanted_size(self, n_left: int) -> int | None:
        """Return how many directions a program evaluates next; ``None`` where there is none, or it is not worth it."""
        if self._n_done == _TURNS:
            self.finish()
        if self._running is None and not (self._record.refused or self._is_over):
            self._prepare(n_left)
        if self._running is None or n_left < _WORTH_A_WHOLE * self._size:
            return None
        return min(self._size, n_left)

    def takes(self, chunk: slice) -> slice | None:
        """Return the chunk that a program evaluates for one that was settled on; ``None`` if it does not."""
        n_wanted = chunk.stop - chunk.start
        if self._running is None or not _WORTH_A_WHOLE * self._size <= n_wanted <= self._size:
            return None
        start = min(chunk.start, self._of.n_directions - self._size)
        whole = slice(start, start + self._size)
        return whole if chunk.start == start or chunk.stop == whole.stop else None

    def values(self, chunk: slice) -> Tensors:
        """Evaluate the copies of a chunk of the settled size.

        The first one has been evaluated while it was recorded. The second one is evaluated in both ways: what does not
        go through torch (a part in NumPy, say) is a constant in the program, and gives itself away only there.
        """
        assert self._running is not None
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == chunk:
            return ahead[1]
        plain = None if self._is_proven else self._of.call(self._of.batch(chunk))
        started_s = time.perf_counter()
        values = self._running.block(chunk.start)
        self._least_s = min(self._least_s, (time.perf_counter() - started_s) / self._size)
        self._n_done += 1
        if plain is None:
            return values
        if self._of.agrees(values, plain):
            self._is_proven = True
        else:
            self.refuse("it gives other values than the function")
        return plain

    def finish(self) -> None:
        """Give a program up that is seen to be slower."""
        if self._running is None or not self._n_done:
            return
        self._record.steps_s.append(self._least_s)
        slower = self._record.why_slower()
        if slower and max(len(self._record.steps_s), self._n_done) >= _TURNS:
            self.refuse(slower)

    def refuse(self, why: str) -> None:
        """Go on without a program, and so in later runs."""
        self._running = self._ahead = None
        self._record.forget()
        self._record.refused = why

    def release(self) -> None:
        """Let go of the program's memory; in this run, there is no other."""
        self._running = self._ahead = None
        self._is_over = True

    def _prepare(self, n_left: int) -> None:
        """Have a program in memory, where that is worth it and one can be made; note why there can be none."""
        self._size = self._due_size(n_left)
        if not self._size:
            return
        try:
            with torch.no_grad():
                self._start(self._of.n_directions - n_left)
        except Exception as error:
            self.refuse("there is no room for one" if is_out_of_memory(error) else first_line(error))

    def _due_size(self, n_left: int) -> int:
        """Return for how many directions at once recording is worth it; 0 where it is not, or not yet."""
        of, size, known = self._of, settled_size(self._plain_sizes), next(iter(self._record.programs), 0)
        if not self._usage.is_counted:
            each_bytes = of.copies(1).n_points * of.seen.largest_bytes
            size = known or evaluations_at_once(n_left, each_bytes, exact_size=self._usage.exact_size)
        if not size or n_left < 2 * size - 1:  # another chunk must show that it is right
            return 0
        chunk_s, n_chunks = size * self._last_s, (n_left - size) / size  # infinite before one was timed: nothing pays
        is_due = bool(known) or evaluations_pay(of.seen, chunk_s, n_chunks, is_counted=self._usage.is_counted)
        return size if is_due else 0

    def _start(self, start: int) -> None:
        """Take memory for a program, recorded on the chunk that starts there.

        What an earlier run has made of a recording of the same operations is used again, with the values of now.

        Raises:
            NotLinearError: It cannot be recorded, or there is too little.
        """
        chunk, record = slice(start, start + self._size), self._record
        is_known = record.script is not None and self._size in record.programs
        followed = self._of.followed(chunk, record.script) if record.script is not None and is_known else None
        if followed is None:
            step = self._of.recorded(chunk)
            record.script, record.programs = step.script, {self._size: self._of.program(step, self._size)}
            followed = step.values, step.made
        program, (values, made) = record.programs[self._size], followed
        if program.n_bytes > self._usage.room.unsure_bytes:
            raise NotLinearError("its results take more than there is room for")
        self._ahead = chunk, made
        self._running = self._of.running(program, values, self._size)
