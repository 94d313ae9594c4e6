"""When a linear program takes over, and what makes blocks then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf, isfinite

import torch

from chunkjac._chunker import OneHot
from chunkjac._linear._batching import batch
from chunkjac._linear._contest import Form, choose_form
from chunkjac._linear._fingerprint import fingerprint
from chunkjac._linear._programs import SHORT_S, Programs
from chunkjac._linear._recorder import NotLinearError
from chunkjac._linear._tracing import Trace, trace
from chunkjac._planner import even_chunk
from chunkjac._problem import Problem
from chunkjac._tensors import is_close
from chunkjac._types import Leaf

# Recording takes as long as 15-40 evaluations of the function (20-700 ms on seventeen networks), and saves
# a fifth of the time or more: so many evaluations' time, and so many seconds, must be left for it.
_WORTH_EVALUATIONS, _WORTH_S = 125, 0.1

# Intermediate results should stay in the caches: of 8, 16, ... 256 directions, those that took 2-6 MiB were
# fastest or within a tenth of it on eleven networks, and those that took 16 MiB up to 3 times slower.
_ARENA_BYTES = 4 * 2**20

# Fewer directions read the weights too often.
_LEAST_SIZE = 16

Block = tuple[torch.Tensor, ...]


class Shortcut:
    """Make blocks by a linear program, once that is worth recording one.

    Args:
        mode: The name of the mode.
        problem: The function and its inputs.
        leaves: What seeds are like.
        by_rows: Whether blocks are rows.
        seeds: What makes seeds.
        programs: What the plan has so far.
        evaluation_s: How long an evaluation of the function takes.

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
        seeds: OneHot,
        programs: Programs,
        evaluation_s: float,
    ) -> None:
        self.was_known = False
        self.has_recorded = False
        self._mode = mode
        self._problem = problem
        self._leaves = leaves
        self._by_rows = by_rows
        self._seeds = seeds
        self._programs = programs
        self._evaluation_s = evaluation_s
        self._direction_s = 0.0
        self._step: Callable[[int], Block] | None = None
        self._bound: list[int] = []
        self._values: Block = ()
        self._trace: Trace | None = None
        self._size = 0
        self._most: int | None = None

    @property
    def size(self) -> int:
        """Return how many directions the program takes at once."""
        return self._size

    @property
    def form(self) -> Form | None:
        """Return how the step runs; ``None`` if nothing was to be compiled."""
        return self._programs.forms.get((self._mode, self._size))

    def note(self, n_directions: int, seconds: float) -> None:
        """Take in how long directions take without a program."""
        self._direction_s = seconds / n_directions
        known_s = self._programs.direction_s.get(self._mode, inf)
        self._programs.direction_s[self._mode] = min(known_s, self._direction_s)

    def is_due(self, n_left: int) -> bool:
        """Tell whether a program is worth it for so many directions."""
        if n_left < 2 or self._mode in self._programs.refused:
            return False
        if self._programs.n_runs or self._programs.compiles:
            return self._programs.wants(self._mode)
        return n_left * self._direction_s > max(_WORTH_S, _WORTH_EVALUATIONS * self._evaluation_s)

    def seeds(self, chunk: slice) -> Block:
        """Return the seeds of the first directions of a chunk, as many as a program takes at once."""
        n_rows = min(self._size, chunk.stop - chunk.start)
        return tuple(values[:n_rows] for values in self._all_seeds(chunk.start))

    def block(self, chunk: slice) -> Block:
        """Make a block.

        Raises:
            NotLinearError: No program can be made of the function.
        """
        n_rows = chunk.stop - chunk.start
        if self._step is None:
            self._begin(chunk)
        if n_rows <= self._size:
            return self._piece(chunk)
        block: Block = ()
        for start in range(chunk.start, chunk.stop, self._size):
            stop = min(start + self._size, chunk.stop)
            piece = self._piece(slice(start, stop))
            block = block or tuple(values.new_empty((n_rows, *values.shape[1:])) for values in piece)
            for target, values in zip(block, piece):
                target[start - chunk.start : stop - chunk.start] = values
        return block

    def _piece(self, chunk: slice) -> Block:
        """Make a block of no more directions than the program takes at once."""
        seeds = self._all_seeds(chunk.start)
        if self._bound != [values.data_ptr() for values in seeds]:
            self._step = self._bind(seeds, chunk.start)
            self._bound = [values.data_ptr() for values in seeds]
        assert self._step is not None
        return tuple(values[: chunk.stop - chunk.start] for values in self._step(chunk.start))

    def trust_batches(self, rung: str) -> None:
        """Take note that a rung's batches were compared with one direction."""
        if self._programs.is_kept:
            self._programs.plain[self._mode] = rung, fingerprint(self._problem)

    def note_run(self, seconds: float, *, by_program: bool) -> None:
        """Take note of a whole run that recorded and compared nothing."""
        key = self._mode, by_program
        self._programs.timings_s[key] = min(seconds, self._programs.timings_s.get(key, inf))

    def refuse(self, why: str) -> None:
        """Take note that no program can be made."""
        self.forget()
        self._programs.refused[self._mode] = why

    def forget(self) -> None:
        """Let go of what was recorded."""
        self._step, self._bound = None, []
        self._programs.forget(self._mode)

    def renew(self) -> bool:
        """Let go of what an earlier run has recorded; return whether there was any."""
        self.forget()
        return self.was_known

    def shrink(self) -> bool:
        """Take half as many directions at once; return whether that is worth it."""
        self._step, self._bound, self._values = None, [], ()
        self._seeds.release()
        self._most = -(-self._size // 2)
        return self._most >= _LEAST_SIZE // 2

    def gives(self, values: Block) -> bool:
        """Tell whether the program's values of the function are what the function gives."""
        return all(is_close(mine, yours) for mine, yours in zip(self._values, values))

    def trust(self, seconds: float) -> None:
        """Take note that the program was compared with one direction."""
        if not self._programs.is_kept:
            return
        self._programs.trusted[self._mode] = fingerprint(self._problem)
        self._programs.check_s[self._mode] = seconds

    def finish(self, seconds: float, n_directions: int) -> None:
        """Take note of how long all chunks took, unless recording is in that; give up what is slower in a long job."""
        if self.has_recorded:
            return
        programs, mode = self._programs, self._mode
        programs.step_s[mode] = seconds
        plain_s, each_s = programs.direction_s.get(mode, inf), seconds / n_directions
        if seconds > SHORT_S and each_s > plain_s and not programs.compiles:
            programs.refused[mode] = (
                f"it takes {each_s * 1e3:.3g} ms for a direction, {plain_s * 1e3:.3g} ms without one"
            )

    def _all_seeds(self, start: int) -> Block:
        """Return as many seeds as the program takes: the last ones are zeros where there are fewer directions."""
        return self._seeds.seeds(slice(start, start + self._size))

    def _begin(self, chunk: slice) -> None:
        """Record a direction, unless that was done, and choose how many to take at once."""
        traces = self._programs.traces
        known = traces.get(self._mode)
        self.was_known = known is not None and known.fits(self._problem)
        if known is None or not self.was_known:
            self._programs.forget(self._mode)
            self.has_recorded = True
            known = traces[self._mode] = trace(self._problem, self._leaves, by_rows=self._by_rows)
        self._trace = known
        n_rows = chunk.stop - chunk.start
        size = max(_LEAST_SIZE, _ARENA_BYTES // known.direction_bytes)
        self._size = even_chunk(n_rows, min(size, self._most or size))
        self._seeds.release()  # there may be more of them than the program takes

    def _bind(self, seeds: Block, start: int) -> Callable[[int], Block]:
        """Run the prologue for these inputs, and lay the step out."""
        assert self._trace is not None
        traced = self._trace.prologue(self._problem)
        self._values = tuple(traced[node] for node in self._trace.values)
        key = self._mode, self._size
        batches = self._programs.batches
        if key not in batches:
            self.has_recorded = True
            batches[key] = batch(self._trace, traced, seeds)[0]
        values = batches[key].values(traced)
        _check_finite(batches[key].computed(values))
        replay, forms = batches[key].replay, self._programs.forms
        if self._programs.compiles and key not in forms:
            forms[key] = choose_form(replay, seeds, values, start)
        bind = forms[key].bind if key in forms else None
        return (bind or replay.bind)(seeds, values)


def _check_finite(values: Sequence[torch.Tensor]) -> None:
    """Refuse factors that are not finite: zero times one of them is not zero."""
    tensors = [_once(value) for value in values if value.numel()]
    tensors = [tensor for tensor in tensors if tensor.dtype.is_floating_point]
    if tensors and not all(
        isfinite(norm) for norm in torch.stack([n.double() for n in torch._foreach_norm(tensors, inf)]).tolist()
    ):
        raise NotLinearError("a factor is not finite")


def _once(values: torch.Tensor) -> torch.Tensor:
    """Return what is expanded once."""
    if 0 not in values.stride():
        return values
    return values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in values.stride())]
