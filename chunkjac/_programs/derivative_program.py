"""When a linear program takes over, and how many directions it takes at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

from chunkjac._chunker import Knee, OneHot, even_chunk, fit_chunks
from chunkjac._problem import Guard, Leaf, Outputs, Problem
from chunkjac._programs.batch import batched, program_of
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.records import SHORT_S, Records
from chunkjac._programs.replay.forms import Form, choose_form
from chunkjac._programs.replay.program import Program
from chunkjac._programs.replay.running import Running
from chunkjac._programs.resizing import resized, telling_size
from chunkjac._programs.tracing import given_tensors, trace
from chunkjac._programs.usage import Usage
from chunkjac._tensors import Tensors

# Recording takes so long for each node of autograd's graph (for those that nobody has counted: in all), and the time of
# so many evaluations; it saves half of the time, or a quarter.
_NODE_S, _UNKNOWN_S, _EVALUATIONS, _SAVED_SHARE = 2e-4, 0.1, 15, 0.4

# Less than that is not worth looking at; and more than that for all nodes together is not spent at the second run.
_WORTH_S, _VERY_LONG_S = 0.02, 1.0

# What one direction needs at once, times the directions. Of 8 to 512 directions those that took 8-32 MiB were within
# a fifth of the fastest on 17 of 23 functions; the others spend their time on calls, or on reading weights.
_WORKING_BYTES, _MOST_BYTES, _LEAST_SIZE = 16 * 2**20, 96 * 2**20, 16

# A call takes so long whatever its size, and so does reading a byte of the weights: a small part of a chunk's time.
_CALL_S, _READ_S, _OVERHEAD_SHARE = 2.5e-6, 1e-10, 0.1

# Where another run may follow, a size is tried if so many times what it takes to lay out is left; else so many.
_WORTH_A_TRIAL, _WORTH_A_TRIAL_ONCE = 8, 40

# So many runs are timed before one is given up: others may use the machine.
_TURNS = 2

# Where memory is counted, a program takes no more of the room by what is known of it: some is foreseen by nobody.
_SURE_SHARE = 0.95

# A plan holds on to so much between its runs, and no more than a part of the room: taking memory anew takes as long as
# a small step (of 46 functions of 2 to 230 ms, plans take 0.93 of the time that they take with a quarter of it).
_HELD_BYTES, _HELD_SHARE = 32 * 2**20, 0.25


class DerivativeProgram:
    """Make blocks by a linear program, once that is worth recording one.

    Args:
        mode: The name of the mode.
        problem: The function and its inputs.
        leaves: What seeds are like.
        by_rows: Whether blocks are rows.
        programs: What the plan has so far.
        evaluation_s: How long an evaluation of the function takes.
        n_nodes: How many nodes its graph has; 0 if that is unknown.
        usage: What this run lets programs do.
        is_trusted: Whether what is known was seen to be what the function does.

    Attributes:
        was_known: Whether it was recorded in an earlier run.
        has_recorded: Whether anything was recorded in this one.
    """

    def __init__(
        self,
        mode: str,
        problem: Problem,
        leaves: Sequence[Leaf],
        *,
        by_rows: bool,
        programs: Records,
        evaluation_s: float,
        n_nodes: int,
        usage: Usage,
        is_trusted: bool,
    ) -> None:
        self.was_known = False
        self.has_recorded = False
        self._mode = mode
        self._problem = problem
        self._leaves = leaves
        self._by_rows = by_rows
        self._programs = programs
        self._record = programs.of(mode)
        self._evaluation_s = evaluation_s
        self._n_nodes = n_nodes
        self._recording_s = (_NODE_S * n_nodes or _UNKNOWN_S) + _EVALUATIONS * evaluation_s
        self._each_s = 0.0  # what a direction takes, but for what its chunk takes whatever its size
        self._usage = usage
        self._exact_size = usage.exact_size
        self._is_trusted = is_trusted
        self._n_directions = sum(leaf.numel for leaf in leaves)
        self._seed_bytes = sum(leaf.n_bytes for leaf in leaves)  # a chunk is compared with one direction of its seeds
        self._running: Running | None = None
        self._size = self._nominal_size = 0
        self._n_to_make = 0
        self._most: int | None = None
        self._n_done = 0  # chunks of this size so far
        self._starting_s = 0.0
        self._guard: Guard | None = None

    @property
    def is_first(self) -> bool:
        """Tell whether this is the first run of the plan."""
        return not self._programs.n_runs

    @property
    def is_ready(self) -> bool:
        """Tell whether a program is in memory."""
        return self._running is not None

    @property
    def is_new(self) -> bool:
        """Tell whether no block of the program in use was compared with one direction."""
        return self._size not in self._record.proven

    @property
    def form(self) -> Form | None:
        """Return how the step runs; ``None`` if nothing was to be compiled."""
        return self._record.forms.get(self._size)

    def note(self, n_directions: int, seconds: float, overhead_s: float) -> None:
        """Take in how long directions take without a program, and how much of that whatever their number."""
        self._record.direction_s = min(seconds / n_directions, self._record.direction_s)
        self._each_s = max(seconds / 8, seconds - overhead_s) / n_directions

    def is_due(self, n_left: int) -> bool:
        """Tell whether a program is worth it for so many directions."""
        if self._record.refused:
            return False
        if self._usage.is_repeatable:
            return True
        if n_left < 2:
            return False
        if self._programs.n_runs or self._programs.compiles:
            return self._programs.wants(self._mode) and not self._is_early
        return n_left * self._each_s > max(_WORTH_S, self._recording_s / _SAVED_SHARE)

    @property
    def _is_early(self) -> bool:
        """Tell whether recording takes very long, and runs have not taken as long yet: there may be few of them.

        So all runs together take twice as long, at most, as they would if their number was known.
        """
        is_very_long = _NODE_S * self._n_nodes > _VERY_LONG_S
        return is_very_long and not self._record.trace and self._programs.spent_s < self._recording_s

    def is_known(self, n_left: int) -> bool:
        """Tell whether what comes next is a program that an earlier run has laid out and compared."""
        if not self._is_trusted or not self.is_due(n_left):
            return False
        return self._next_size(n_left) in self._record.proven

    def wanted_size(self, n_left: int) -> int:
        """Return how many directions come next, with a program for them in memory.

        Raises:
            NotLinearError: No program can be made of the function.
        """
        self._have_trace()
        size = self._next_size(n_left)
        if size != self._size or self._running is None:
            self._put_back()
            if self._usage.is_counted:
                size = self._fitting_size(size, n_left)
                self._record.hold_only(size)
            self._size, self._n_done = size, 0
            started_s = time.perf_counter()
            self._running = self._started(size)
            self._starting_s = time.perf_counter() - started_s
        return min(size, n_left)

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Make a block of at most as many directions as were settled on, in the places that are lent for it."""
        assert self._running is not None
        started_s = time.perf_counter()
        n_rows = chunk.stop - chunk.start
        block = self._running.block(chunk.start, places)
        if n_rows < self._size:
            block = tuple(values[:n_rows] for values in block)
        self._n_done += 1
        if self._n_done == 2 and self._record.knee is not None:  # the first has page faults in it
            each_s = (time.perf_counter() - started_s) / self._size
            self._record.knee.learn(self._nominal_size, each_s * self._nominal_size)
        return block

    def trust(self, outputs: Outputs) -> None:
        """Take note that a block was compared with one direction.

        Args:
            outputs: What the function gives.
        """
        self._record.proven.add(self._size)
        if self._guard is not None and self._programs.is_kept and self._guard.holds(self._problem):
            self._record.guard, self._record.outputs = self._guard, outputs

    def trust_batches(self, rung: str) -> None:
        """Take note that a rung's batches were compared with one direction."""
        if self._programs.is_kept and self._record.plain is None:
            self._record.plain = rung, Guard(self._problem)

    def note_run(self, seconds: float, *, by_program: bool) -> None:
        """Take note of a whole run that recorded and compared nothing."""
        times_s = self._record.with_s if by_program else self._record.without_s
        times_s.append(seconds)

    def refuse(self, why: str, *, lasts: bool = True) -> None:
        """Take note that no program can be made; factors that are not finite may be so at these inputs only."""
        self._running = None
        if lasts:
            self._record.forget()
            self._record.refused = why

    def renew(self, n_left: int) -> None:
        """Record anew what an earlier run has recorded, for as many directions at once."""
        self._exact_size, self._running, self._is_trusted = self._size, None, False
        self._record.forget()
        self.wanted_size(n_left)

    def shrink(self) -> bool:
        """Take half as many directions at once; return whether that is worth it."""
        self._running = None
        self._most = -(-(self._size or self._first_size(self._n_directions)) // 2)
        self._record.knee = None
        return self._exact_size is None and self._most >= _LEAST_SIZE // 2

    def finish(self, seconds: float) -> None:
        """Take note of how long all chunks took, unless recording is in that; give up what is slower in a long job."""
        self._put_back()
        if self._record.knee is not None and self._record.knee.is_settled:
            self._record.keep_only(self._size)
        if self.has_recorded or self._programs.compiles or self._usage.is_repeatable:
            return
        record = self._record
        record.steps_s.append(seconds / self._n_directions)
        if seconds > SHORT_S and len(record.steps_s) >= _TURNS:
            record.refused = record.why_slower()

    def release(self) -> None:
        """Let go of the program's memory."""
        self._running = None

    def _have_trace(self) -> None:
        """Record a direction, unless that was done and nothing has changed that can be seen."""
        if self._running is not None:
            return
        record = self._record
        if self._is_trusted:
            self.was_known = True
            return
        is_stale = record.guard is not None and record.guard.is_complete and not record.guard.holds(self._problem)
        self.was_known = record.trace is not None and not is_stale and record.trace.fits(self._problem)
        if not self.was_known:
            record.forget()
            self.has_recorded = True
            self._guard = Guard(self._problem) if self._programs.is_kept else None
            record.trace = trace(self._problem, self._leaves, by_rows=self._by_rows)

    def _fitting_size(self, size: int, n_left: int) -> int:
        """Return a size, or where its program would take more than there is room for, a smaller one."""
        room_bytes = int(_SURE_SHARE * self._usage.room_bytes)
        needed_bytes: dict[int, int] = {}
        while self._exact_size is None and size not in self._record.proven:
            self._size = size  # so that this is halved if there is no room to record it
            needed_bytes[size] = self._program(size).most_bytes + size * self._seed_bytes
            fixed_bytes, each_bytes = fit_chunks(needed_bytes)
            most = min(size - 1, (room_bytes - fixed_bytes) // max(1, each_bytes))
            if needed_bytes[size] <= room_bytes or most < _LEAST_SIZE // 2:
                break
            del self._record.programs[size]
            self._most, self._record.knee = most, None
            size = self._next_size(n_left)
        return size

    def _next_size(self, n_left: int) -> int:
        """Return the fastest size, or one that is tried for that."""
        if self._exact_size is not None:
            return min(self._exact_size, self._n_directions)
        self._n_to_make = self._n_to_make or n_left
        knee = self._record.knee
        if knee is None:
            knee = self._record.knee = Knee(self._first_size(n_left))
        size = knee.next_size(self._largest_size(), n_left)
        if size not in (knee.size, self._nominal_size) and not self._is_worth_a_trial(knee, n_left):
            size = knee.size
        self._nominal_size = size
        return even_chunk(self._n_to_make, min(size, self._n_to_make))

    def _first_size(self, n_left: int) -> int:
        """Return a size at which neither calls and weights nor memory that is out of the caches should matter much."""
        known = self._record.trace
        assert known is not None
        read_bytes = sum(tensor.nbytes for tensor in known.graph.constants.values())
        overhead_s = _CALL_S * sum(node.varies for node in known.graph.nodes) + _READ_S * read_bytes
        size = max(_LEAST_SIZE, _WORKING_BYTES // known.direction_bytes)
        direction_s = min(self._record.direction_s, self._evaluation_s)
        if direction_s > 0:
            size = max(size, int(overhead_s / (_OVERHEAD_SHARE * direction_s)))
        return even_chunk(n_left, max(1, min(size, self._largest_size(), n_left)))

    def _largest_size(self) -> int:
        """Return the most directions that fit, and may still be fast."""
        assert self._record.trace is not None
        each_bytes = self._record.trace.direction_bytes + self._seed_bytes
        size = max(_LEAST_SIZE, min(_MOST_BYTES // each_bytes, _WORKING_BYTES // max(1, self._seed_bytes)))
        return max(1, min(size, self._usage.room_bytes // (2 * each_bytes), self._most or size))

    def _is_worth_a_trial(self, knee: Knee, n_left: int) -> bool:
        """Tell whether so much time is left that laying out another size is a small part of it."""
        factor = _WORTH_A_TRIAL if self._programs.is_kept else _WORTH_A_TRIAL_ONCE
        return 0 < factor * self._starting_s < n_left * knee.step_s

    def _started(self, size: int) -> Running:
        """Return a program that has run its prologue for these inputs."""
        record, tensors = self._record, given_tensors(self._problem)[0]
        running = record.running.pop(size, None) if self._usage.is_usual else None
        if running is not None and running.is_current():
            running.begin(tensors)
            return running
        program = self._program(size)
        n_bytes = program.n_bytes + sum(tensor.nbytes for tensor in tensors)
        is_small = n_bytes <= min(_HELD_BYTES, _HELD_SHARE * self._usage.room_bytes)
        owns = self._usage.is_usual and self._programs.is_kept and is_small
        one_hot = OneHot(self._leaves)  # what lies behind the last direction are zeros
        running = Running(program, tensors, lambda start: one_hot.seeds(slice(start, start + size)), owns_inputs=owns)
        if self._programs.compiles:
            if size not in record.forms:
                record.forms[size] = choose_form(running)
            running.take(record.forms[size].bind)
        return running

    def _program(self, size: int) -> Program:
        """Return the program for so many directions at once; record it if there is none yet."""
        record = self._record
        if size not in record.programs:
            assert record.trace is not None
            self.has_recorded = True
            telling = telling_size(record.trace.graph)
            if telling is None or size == 1:
                graph = self._batch(size)
            else:
                graph, known_size = record.batch = record.batch or (self._batch(telling), telling)
                graph = resized(graph, known_size, size)
            record.programs[size] = program_of(graph, len(record.trace.inputs))
        return record.programs[size]

    def _batch(self, size: int) -> Graph:
        """Record so many directions at once."""
        assert self._record.trace is not None
        seeds = OneHot(self._leaves).seeds(slice(0, size))
        return batched(self._record.trace, self._record.trace.prologue(self._problem), seeds)[0]

    def _put_back(self) -> None:
        """Keep a program in memory for the next run, if it is small."""
        running, self._running = self._running, None
        if running is not None and running.owns_inputs:
            self._record.running[self._size] = running
