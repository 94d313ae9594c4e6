"""When the evaluation of a batch of perturbed copies is recorded, and replayed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch

from chunkjac._chunker import BatchLayout, even_chunk
from chunkjac._memory import first_line, is_out_of_memory
from chunkjac._problem import Problem
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.recorder import NotLinearError, recorded
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.passes.first_layer import with_nudges
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.records import ModeRecord, SeenByDifferences
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._programs.tracing import given_tensors, with_own_arguments
from chunkjac._programs.usage import Usage
from chunkjac._tensors import Tensors

# Recording takes so long for each operation, beside a chunk. It saves so much of each operation of a chunk (U-Net 0.03
# of the time, Lorenz 96 0.15), but no larger part of the time than this; where there are matrix products, it may save
# more. Less than some time is not worth looking at, nor other memory where that is counted.
_OPERATION_S, _SAVED_OPERATION_S, _SAVED_SHARE, _SAVED_OF_PRODUCTS = 3e-4, 6e-6, 0.2, 0.5
_WORTH_S, _WORTH_COUNTING_S = 0.02, 0.25

# The largest tensor of a chunk takes so much, and stays in the caches; a chunk has so many directions at least. In a
# first run, the chunk that is recorded is one of so many, as it takes as long as any other without a program.
_CACHED_BYTES, _LEAST_SIZE, _N_CHUNKS = 4 * 2**20, 16, 6

# The last chunk may be smaller: this part of a program's size is evaluated by it, with some directions twice.
_WORTH_A_WHOLE = 0.5

# So many chunks tell whether a program is slower.
_TURNS = 2


@dataclass(frozen=True, slots=True)
class PlainEvaluation:
    """Hold how copies are evaluated without a program.

    Attributes:
        problem: The function and its inputs.
        call: Evaluates a batch, by the problem or by one like it.
        batch: Makes the copies of a chunk, always at the same place for chunks of one size.
        copies: Says how a batch for so many directions is made up.
        last: The point of its last row, if there is one.
        agrees: Tells whether values are the same but for rounding.
        seen: What is known of an evaluation.
    """

    problem: Problem
    call: Callable[..., Tensors]
    batch: Callable[[slice], Tensors]
    copies: Callable[[int], BatchLayout]
    last: Tensors
    agrees: Callable[[Tensors, Tensors], bool]
    seen: SeenByDifferences


class DifferenceProgram:
    """Evaluate chunks by a program, once that is worth recording one.

    A program has no Python between its operations, writes their results where they were the last time,
    multiplies by whatever library is fastest, and does not compute what the copies have in common.

    Args:
        evaluation: How copies are evaluated without one.
        record: What is remembered of the mode.
        usage: What this run lets programs do.
        is_trusted: Whether what is known was seen to be what the function does.

    Attributes:
        was_used: Whether any chunk was evaluated by a program.
        is_new: Whether the next one is the first.
        refused: Why there is no program; empty where that is not so.
    """

    def __init__(self, evaluation: PlainEvaluation, record: ModeRecord, usage: Usage, *, is_trusted: bool) -> None:
        self.was_used = False
        self.is_new = True
        self._of = evaluation
        self._record = record
        self._usage = usage
        self._is_trusted = is_trusted
        self._n_directions = sum(leaf.numel for leaf in evaluation.problem.leaves)
        self._running: Running | None = None
        self._size = 0
        self._is_proven = False
        self._plain_sizes: list[int] = []
        self._last_s = self._least_s = inf
        self._n_done = 0
        self._is_over = False
        self._ahead: tuple[slice, Tensors] | None = None  # what recording has computed

    @property
    def refused(self) -> str:
        """Say why there is no program; empty where that is not so."""
        return self._record.refused

    @property
    def is_ready(self) -> bool:
        """Tell whether a program is in memory."""
        return self._running is not None

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

    def _prepare(self, n_left: int) -> None:
        """Have a program in memory, where that is worth it and one can be made."""
        known = next(iter(self._record.programs.items()), None) if self._is_trusted else None
        if known is not None and known[0] <= n_left and all(read.holds() for read in known[1].reads):
            self._size, self._is_proven = known[0], True
            self._try(lambda: self._bound(known[1]))
            return
        size = self._good_size(n_left)
        if size and self._is_due(size, n_left):
            self._size, self._is_proven = size, False
            start = self._n_directions - n_left
            self._try(lambda: self._recorded(slice(start, start + size)))

    def _good_size(self, n_left: int) -> int:
        """Return how many directions to take at once; 0 where memory is counted and their number is not settled yet."""
        *_, last, size = (0, 0, *self._plain_sizes)
        if self._usage.is_counted:
            return size if len(self._plain_sizes) > _TURNS and last == size else 0
        if self._usage.exact_size is None:
            each_bytes = self._of.copies(1).n_points * self._of.seen.largest_bytes
            n_parts = 2 if self._is_trusted else _N_CHUNKS
            size = min(max(_LEAST_SIZE, _CACHED_BYTES // max(1, each_bytes)), -(-n_left // n_parts))
        return even_chunk(n_left, min(self._usage.exact_size or size, n_left))

    def takes(self, chunk: slice) -> slice | None:
        """Return the chunk that a program evaluates for one that was settled on; ``None`` if it does not."""
        n_wanted = chunk.stop - chunk.start
        if self._running is None or not _WORTH_A_WHOLE * self._size <= n_wanted <= self._size:
            return None
        start = min(chunk.start, self._n_directions - self._size)
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
        self.is_new = False
        if plain is not None:
            self._prove(self._running.program, values, plain)
        self.was_used = self.was_used or self._is_proven
        return values if plain is None else plain

    def _prove(self, program: Program, values: Tensors, plain: Tensors) -> None:
        """Keep a program that gives what the function does on other copies than those it was recorded on."""
        if self._of.agrees(values, plain):
            self._is_proven = True
            self._record.programs = {self._size: program}
        else:
            self.refuse("it gives other values than the function")

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

    def _is_due(self, size: int, n_left: int) -> bool:
        """Tell whether recording is worth it for so many directions."""
        if n_left < 2 * size - 1:  # another chunk must show that it is right
            return False
        if self._is_trusted:
            return True
        if not self._plain_sizes:
            return False
        n_operations, chunk_s, n_chunks = self._of.seen.n_operations, size * self._last_s, (n_left - size) / size
        if self._of.seen.has_products:
            saved_s = _SAVED_OF_PRODUCTS * chunk_s
        else:
            saved_s = min(_SAVED_SHARE * chunk_s, _SAVED_OPERATION_S * n_operations)
        is_worth = n_chunks * chunk_s > (_WORTH_COUNTING_S if self._usage.is_counted else _WORTH_S)
        return is_worth and n_chunks * saved_s > 2 * chunk_s + _OPERATION_S * n_operations

    def _try(self, prepare: Callable[[], object]) -> None:
        """Prepare a program; note why there can be none."""
        try:
            with torch.no_grad():
                prepare()
        except Exception as error:
            self.refuse("there is no room for one" if is_out_of_memory(error) else first_line(error))

    def _recorded(self, chunk: slice) -> None:
        """Record the evaluation of a chunk.

        Raises:
            NotLinearError: It cannot be recorded.
        """
        batch = self._of.batch(chunk)
        problem = with_own_arguments(self._of.problem)
        given = self._given(problem)
        graph, made = recorded(lambda: self._of.call(batch, problem), (*given, *batch), batch, {})
        self._bound(self._program(merged(graph), len(given)))
        self._ahead = chunk, made

    def _program(self, graph: Graph, n_given: int) -> Program:
        """Return what was recorded as a program."""
        n_leaves = len(self._of.problem.inputs)
        inputs, lasts, points = graph.given[:n_leaves], graph.given[n_leaves:n_given], graph.given[n_given:]
        lasts = lasts[: len(self._of.last)]
        graph = with_nudges(graph, inputs, lasts, points, self._of.copies(self._size))
        return Program(with_fast_products(graph).live(), n_given)

    def _bound(self, program: Program) -> None:
        """Take memory for a program.

        Raises:
            NotLinearError: There is too little.
        """
        if 2 * program.n_bytes > self._usage.room_bytes:
            raise NotLinearError("its results take more than there is room for")
        size = self._size
        self._running = Running(
            program,
            self._given(self._of.problem),
            lambda start: self._of.batch(slice(start, start + size)),
            owns_inputs=False,
            is_linear=False,
        )

    def _given(self, problem: Problem) -> Tensors:
        """Return what a program is given beside the copies: the base point, the last one, other arguments."""
        others = given_tensors(problem)[0][len(problem.inputs) :]
        return (*problem.inputs, *self._of.last, *others)
