"""The ladder of a mode that takes derivatives: its rungs, and how one is left for the next.

A rung is given up when it cannot run the function, and also when its first block of several
directions is not what one direction alone tells: some operations have wrong batching rules
(the backward pass of ``cdist`` under ``vmap``, torch 2.13), and nothing else would show it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from chunkjac._chunker import Directions, ElementDirections, Seeds
from chunkjac._errors import ChunkjacError, add_note
from chunkjac._memory import drain_backward, first_line, is_out_of_memory
from chunkjac._modes.agreement import DisagreementError, agrees_in_one_direction
from chunkjac._modes.mode import OtherWayError
from chunkjac._modes.referee import nearer
from chunkjac._modes.vmap import is_warm
from chunkjac._problem import Leaf, Outputs, Problem
from chunkjac._programs import DerivativeProgram, NotFiniteError, PlainDerivative, Records, Usage
from chunkjac._tensors import Tensors, are_apart

# What a dry run raises where values would be needed: it tells nothing about a rung.
FAKE_ONLY = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


_PROGRAM = "linear program"
_COMPILED = f"{_PROGRAM}, compiled"

# A node takes so long in a chunk, whatever its size, and in an evaluation; a direction takes 0.05 to 1.4 evaluations,
# but for that (20 functions).
_NODE_S, _CALL_S, _LEAST_SHARE, _LONG_S = 20e-6, 5e-6, 0.05, 0.05


# Counting takes as long as a small operation itself: only chunks of so many directions tell what a direction takes.
_TELLING_SIZE = 8


class Rung(Protocol):
    """Apply the derivative of a problem, at its inputs, to seeds.

    A rung is made by running its prologue.

    Attributes:
        name: The rung's name.
        prologue: What its prologue is, the same for rungs that share one.
        batched: Whether ``many`` computes the directions of a chunk together.
        outputs: What the function returns.
        flows: Whether any output depends on an input as far as the rung sees.
    """

    name: ClassVar[str]
    prologue: ClassVar[str]
    batched: ClassVar[bool]
    outputs: Outputs
    flows: bool

    @property
    def is_sure(self) -> bool:
        """Tell whether ``many`` is known to give what ``one`` does."""
        ...

    def many(self, seeds: Tensors) -> Tensors:
        """Apply the derivative to ``(k, *leaf.shape)`` of seeds."""
        ...

    def one(self, seed: Tensors) -> Tensors:
        """Apply the derivative to a single seed, without batching anything."""
        ...

    def close(self) -> None:
        """Let go of what the prologue keeps; nothing is asked for after that."""
        ...


class Derivative:
    """Be what reverse and forward mode have in common: a ladder, and seeds to send through its rungs.

    Args:
        problem: The function and its inputs.
        ladder: The rungs and what makes each, the fastest first.
        keeps_graph: Whether blocks can be differentiated again.
        outputs: What the function returns, if that is known: then no rung is made before it is needed.
        directions: What they are, of seeds like some leaves.
    """

    name: ClassVar[str]
    by_rows: ClassVar[bool]
    seeds_per_direction: ClassVar[int] = 1
    largest_bytes: ClassVar[int] = 0
    gives_away = False
    _fast: ClassVar[tuple[type[Rung], ...]]

    def __init__(
        self,
        problem: Problem,
        ladder: Mapping[type[Rung], Callable[[], Rung]],
        *,
        keeps_graph: bool = False,
        outputs: Outputs | None = None,
        directions: Callable[[Sequence[Leaf]], Directions] = ElementDirections,
    ) -> None:
        self._started_s = time.perf_counter()
        self.problem = problem
        self.reasons: tuple[str, ...] = ()
        self._ladder = dict(ladder)
        self._keeps_graph = keeps_graph
        self._works = False  # whether a block was made: later errors are the function's own
        # Whether a block of several directions was compared; with other random numbers for each, none can be.
        self._is_proven = problem.randomness == "different"
        self._outputs = outputs
        self._is_trusted = outputs is not None  # so need a program's first block not be compared
        self._made: Rung | None = None
        if outputs is None:
            self._rung  # noqa: B018 - its prologue tells what the function returns
        self.directions = directions(self.outputs.leaves if self.by_rows else problem.leaves)
        self._seeds = Seeds(self.directions)
        self._shortcut: DerivativeProgram | None = None
        self._is_shortcut_proven = False
        self._program = _PROGRAM
        self._program_s = 0.0
        self._evaluation_s = time.perf_counter() - self._started_s
        self._is_usual = True
        self._is_counted = False
        self._compares = False  # whether anything was compared with one direction

    @property
    def _rung(self) -> Rung:
        """Return the rung that is in use."""
        if self._made is None:
            started_s = time.perf_counter()
            with torch.set_grad_enabled(self._keeps_graph):
                self._made = self._next_rung()
            self._prologue_s = time.perf_counter() - started_s
        return self._made

    @property
    def outputs(self) -> Outputs:
        """Return what the function returns."""
        return self._outputs or self._rung.outputs

    @property
    def flows(self) -> bool:
        """Tell whether any output depends on an input as far as the rung sees."""
        return self._made is None or self._made.flows

    @property
    def rung(self) -> str:
        """Return the name of the way in which the mode runs."""
        return self._program if self._is_shortcut_proven or self._made is None else self._made.name

    @property
    def fell(self) -> bool:
        """Tell whether a rung is used that is slower than the first."""
        return not self._is_shortcut_proven and self._made is not None and type(self._made) not in self._fast

    @property
    def batched(self) -> bool:
        """Tell whether the directions of a chunk are computed together."""
        return self._made is None or self._made.batched

    def use_programs(self, programs: Records, usage: Usage) -> None:
        """Let a linear program make blocks, where that is worth it; see :meth:`Mode.use_programs`."""
        self._is_usual, self._is_counted = usage.is_usual, usage.is_counted
        record = programs.of(self.name)
        if record.refused:
            self.reasons = (*self.reasons, f"no {_PROGRAM}: {record.refused}")
        elif self.batched and not self._keeps_graph and self.problem.randomness != "different":
            plain = PlainDerivative(
                self.name, self.problem, self.directions, self.by_rows, self._evaluation_s, self.outputs.n_nodes
            )
            self._shortcut = DerivativeProgram(plain, programs, usage, is_trusted=self._is_trusted)
            if self._made is not None and record.trusts_batches(self._made.name, self.problem):
                self._is_proven = True

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell whether a program comes next, of a size that was counted, and nothing has changed that matters."""
        return self._is_usual and self._shortcut is not None and self._shortcut.is_known(n_left)

    def wanted_size(self, n_left: int) -> int | None:
        """Return the only chunk size that fits the way in which the mode runs; ``None`` if any does.

        A program is recorded here, where it is worth that.
        """
        while self._shortcut is not None and self.batched:
            if not (self._is_shortcut_proven or self._shortcut.is_due(n_left)):
                return None
            if self._is_counted and not self.repeats_what_was_counted(n_left):
                self._is_usual = False  # counting takes time
            try:
                with torch.no_grad():
                    return self._shortcut.wanted_size(n_left)
            except Exception as error:
                if not (is_out_of_memory(error) and self._shortcut.shrink()):
                    self._refuse(self._shortcut, first_line(error), lasts=not isinstance(error, NotFiniteError))
        return None

    @property
    def is_long(self) -> bool:
        """Tell whether the whole takes long, however fast a direction is: so that preparing for it may pay."""
        calls_s = _CALL_S * self.outputs.n_nodes  # once for a chunk
        return self.batched and _LEAST_SHARE * (self._evaluation_s - calls_s) * self.directions.n > _LONG_S

    @property
    def writes_in_place(self) -> bool:
        """Tell whether the next block is made in places that are lent for it: a program's is."""
        return self._ready is not None

    @property
    def _ready(self) -> DerivativeProgram | None:
        """Return what makes the next block, if that is a program."""
        return self._shortcut if self._shortcut is not None and self._shortcut.is_ready else None

    @property
    def is_new(self) -> bool:
        """Tell whether the next block begins another way, which holds other memory than those before."""
        ready = self._ready
        return ready is not None and ready.is_new

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Compute ``(k, *leaf.shape)`` for each leaf: rows by inputs, or columns by outputs."""
        ready = self._ready
        if ready is not None:
            return self._by_program(ready, chunk, places)
        self.gives_away = False
        is_small = chunk.stop - chunk.start < min(_TELLING_SIZE, self.directions.n)
        tells = is_warm() and not (self._is_counted and is_small)
        started_s = time.perf_counter()
        block = self._on_a_rung(lambda: self._block(chunk))
        if self._shortcut is not None and tells:
            self._shortcut.note(chunk.stop - chunk.start, time.perf_counter() - started_s, self._overhead_s)
        return block

    def _by_program(self, shortcut: DerivativeProgram, chunk: slice, places: Tensors | None) -> Tensors:
        """Compute a block by a linear program.

        Its first block is compared with one direction alone. If one that was recorded in an earlier run
        gives something else, the function has changed, and it is recorded anew.

        Raises:
            OtherWayError: There can be none, from now on, or only a smaller one.
        """
        while True:
            try:
                started_s = time.perf_counter()
                with torch.no_grad():
                    block = shortcut.block(chunk, places)
                self._program_s += time.perf_counter() - started_s
                if shortcut.is_new or not (self._is_shortcut_proven or self._is_trusted):
                    self._prove(shortcut, chunk, block)
                self._announce(shortcut)
                return block
            except DisagreementError:
                why, again, lasts = "it gives other values than one direction alone", shortcut.recording.was_known, True
            except Exception as error:  # only words leave this block: the traceback holds the program's tensors
                if is_out_of_memory(error) and shortcut.shrink():
                    break
                why, again, lasts = first_line(error), False, not isinstance(error, NotFiniteError)
            if not (again and self._renewed(shortcut, chunk)):
                self._refuse(shortcut, why, lasts=lasts)
                break
        raise OtherWayError

    def _renewed(self, shortcut: DerivativeProgram, chunk: slice) -> bool:
        """Record a program anew; return whether that could be done."""
        try:
            with torch.no_grad():
                shortcut.renew(chunk.stop - chunk.start)
        except Exception:
            return False
        return True

    def _refuse(self, shortcut: DerivativeProgram, why: str, *, lasts: bool) -> None:
        """Go on without a program, and so in later runs if the reason is no matter of these inputs."""
        shortcut.refuse(why, lasts=lasts)
        self._shortcut, self._is_shortcut_proven = None, False
        self.reasons = (*self.reasons, f"no {_PROGRAM}: {why}")

    def _announce(self, shortcut: DerivativeProgram) -> None:
        """Say how the blocks are made from now on."""
        form = shortcut.recording.form(shortcut.size)
        if not self._is_shortcut_proven and form is not None:
            self._program = _PROGRAM if form.bind is None else _COMPILED
            self.reasons = (*self.reasons, form.reason)
        self._is_shortcut_proven = True

    def apply(self, seed: Tensors) -> Tensors:
        """Apply the derivative to any seed: ``w J`` in reverse mode, ``J u`` in forward mode."""
        with torch.no_grad():
            return self._alone(seed)

    def _prove(self, shortcut: DerivativeProgram, chunk: slice, block: Tensors) -> None:
        """Compare a program's block with one direction."""
        self._compares = True
        with torch.no_grad():
            agrees_in_one_direction(self._alone, self._seeds.batch(chunk), block, _the_second)
        shortcut.recording.trust(shortcut.size, replace(self.outputs, aux=None))

    def _alone(self, seed: Tensors) -> Tensors:
        """Apply the derivative to a single seed, on the first rung that can."""
        return self._on_a_rung(lambda: self._rung.one(seed))

    @property
    def _overhead_s(self) -> float:
        """Return what a chunk takes whatever its size, or about that."""
        return _NODE_S * self.outputs.n_nodes

    def _on_a_rung(self, compute: Callable[[], Tensors]) -> Tensors:
        """Compute on the rung that is in use, and on the next where that cannot."""
        while True:
            try:
                return compute()
            except Exception as error:
                if self._works or not self._ladder or is_final(error):
                    self._note_on(error)
                    raise
                why = self._why_not(error)
            self._rung.close()  # its activations go before others come
            drain_backward()
            self.reasons = (*self.reasons, why)
            with torch.set_grad_enabled(self._keeps_graph):
                self._made = self._next_rung()

    def release(self) -> None:
        """Give the seeds back, and the program's memory."""
        self._seeds.release()
        self._shortcut, self._is_shortcut_proven = None, False

    def close(self) -> None:
        """Give the seeds back, and what the prologue keeps."""
        self._seeds.release()
        if self._shortcut is not None:
            self._leave_word(self._shortcut)
            self._shortcut = None
        if self._made is not None:
            self._made.close()

    def _leave_word(self, shortcut: DerivativeProgram) -> None:
        """Leave to later runs of the plan what this one tells."""
        if self._is_shortcut_proven:
            shortcut.finish(self._program_s)
        elif self._made is not None and self._is_proven and not self._made.is_sure:
            shortcut.recording.trust_batches(self._made.name)
        is_unusual = self._compares and (self._is_shortcut_proven or shortcut.recording.is_first)
        if self._is_usual and not is_unusual and not shortcut.recording.has_recorded:
            shortcut.recording.note_run(time.perf_counter() - self._started_s, by_program=self._is_shortcut_proven)

    def _next_rung(self) -> Rung:
        """Return the next rung whose prologue can run the function."""
        while True:
            kind = next(iter(self._ladder))
            make = self._ladder.pop(kind)
            try:
                return make()
            except Exception as error:
                if is_final(error):
                    raise
                self._ladder = {rung: make for rung, make in self._ladder.items() if rung.prologue != kind.prologue}
                if not self._ladder:
                    self._note_on(error)
                    raise
                why = f"{kind.name} cannot run func: {first_line(error)}"
            self.reasons = (*self.reasons, why)

    def _note_on(self, error: Exception) -> None:
        """Say what was tried before, unless that has nothing to do with it."""
        for reason in () if self._works or is_final(error) else self.reasons:
            add_note(error, f"chunkjac: {reason}")

    def _why_not(self, error: Exception) -> str:
        """Say why the rung is left."""
        if isinstance(error, DisagreementError):
            return f"{self.rung} gives other values for several directions than for one alone"
        return f"{self.rung} cannot run func: {first_line(error)}"

    def _nearer(self, seed: Tensors, candidates: Sequence[Tensors]) -> int:
        """Return which candidate for the derivative at a seed is nearer to a central difference."""
        return nearer(self.problem, seed, candidates, by_rows=self.by_rows)

    def _block(self, chunk: slice) -> Tensors:
        """Compute a block on the rung that is in use."""
        n_rows = chunk.stop - chunk.start
        with torch.set_grad_enabled(self._keeps_graph):
            seeds = self._seeds.batch(chunk)
            if n_rows > 1 and self.batched:
                block = self._rung.many(seeds)
                is_sure = self._rung.is_sure  # then what it gives was made for it, or is a seed
                self._is_proven = self._is_proven or is_sure
                self.gives_away = is_sure and are_apart((*seeds, *block))
                if not self._is_proven:
                    self._compares = True
                    with torch.no_grad():
                        self._is_proven = agrees_in_one_direction(self._rung.one, seeds, block, self._nearer)
            else:
                block = _one_by_one(self._rung, seeds, n_rows)
        self._works = self._works or self._is_proven or not self.batched
        return block


def known_outputs(name: str, problem: Problem, programs: Records | None) -> Outputs | None:
    """Return what the function gives, if a mode's program need not be compared again; only ``aux`` is evaluated."""
    known = programs.knows(name, problem) if programs is not None else None
    return problem.evaluate()[1] if known is not None and problem.has_aux else known


def _the_second(_seed: Tensors, _candidates: Sequence[Tensors]) -> int:
    """Take one direction alone for right: differences would see through ``detach``, and keep a program without it."""
    return 1


def is_final(error: BaseException) -> bool:
    """Tell whether an error says nothing about the rung: another one would fail alike."""
    return isinstance(error, (ChunkjacError, *FAKE_ONLY)) or is_out_of_memory(error)


def _one_by_one(rung: Rung, seeds: Tensors, n_rows: int) -> Tensors:
    """Apply the derivative to one seed after the other."""
    rows = (rung.one(tuple(values[i] for values in seeds)) for i in range(n_rows))
    if n_rows == 1:
        return tuple(values.unsqueeze(0) for values in next(rows))
    if torch.is_grad_enabled():
        return tuple(torch.stack(values) for values in zip(*rows))
    block: Tensors = ()
    for i, row in enumerate(rows):
        block = block or tuple(values.new_empty((n_rows, *values.shape)) for values in row)
        for target, values in zip(block, row):
            target[i] = values
    return block
