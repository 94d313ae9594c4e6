"""Blocks by a program: taken over, compared, given up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from chunkjac._chunker import Seeds
from chunkjac._memory import first_line, is_out_of_memory
from chunkjac._modes.agreement import DisagreementError, agrees_in_one_direction
from chunkjac._modes.derivatives.ladder import Ladder
from chunkjac._modes.mode import OtherWayError
from chunkjac._problem import Outputs, Problem
from chunkjac._programs import DerivativeProgram, NotFiniteError, Records, Usage
from chunkjac._tensors import Tensors

PROGRAM = "linear program"
_COMPILED = f"{PROGRAM}, compiled"

# A node takes so long in a chunk, whatever its size.
_NODE_S = 20e-6


class Takeover:
    """Make blocks by a program from where that is worth it, as long as it gives what a ladder does.

    Args:
        ladder: What blocks are made on before, and after; it also computes the one direction that tells.
        seeds: Gives the seeds of chunks.

    Attributes:
        is_done: Whether blocks are made by a program.
        name: The name of that way.
    """

    def __init__(self, ladder: Ladder, seeds: Seeds) -> None:
        self.is_done = False
        self.name = PROGRAM
        self._ladder = ladder
        self._seeds = seeds
        self._program: DerivativeProgram | None = None
        self._program_s = 0.0
        self._is_usual = True
        self._is_counted = False
        self._compares = False  # whether a program was compared with one direction

    def begin(self, program: DerivativeProgram, usage: Usage) -> None:
        """Let a program take over from where it can."""
        self._program, self._is_usual, self._is_counted = program, not usage.counts_again, usage.is_counted

    @property
    def is_ready(self) -> bool:
        """Tell whether a program makes the next block."""
        return self._program is not None and self._program.is_ready

    @property
    def is_new(self) -> bool:
        """Tell whether the next block is the first that a program makes."""
        return self._program is not None and self._program.is_ready and self._program.is_new

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell whether a program comes next, of a size that was counted, and nothing has changed that matters."""
        return self._is_usual and self._program is not None and self._program.is_known(n_left)

    def wanted_size(self, n_left: int) -> int | None:
        """Return how many directions the program takes next, recorded where that is worth it; ``None`` for none."""
        while self._program is not None:
            if not (self.is_done or (self._ladder.batched and self._program.is_due(n_left))):
                return None
            if self._is_counted and not self.repeats_what_was_counted(n_left):
                self._is_usual = False  # counting takes time
            try:
                with torch.no_grad():
                    return self._program.wanted_size(n_left)
            except Exception as error:
                if not (is_out_of_memory(error) and self._program.shrink()):
                    self._give_up(self._program, first_line(error), lasts=not isinstance(error, NotFiniteError))
        return None

    def note(self, n_rows: int, seconds: float) -> None:
        """Take in how long the ladder took for so many directions."""
        if self._program is not None:
            self._program.note(n_rows, seconds, _NODE_S * self._ladder.outputs.n_nodes)

    def block(self, chunk: slice, places: Tensors | None) -> Tensors:
        """Compute a block by the program.

        Its first block is compared with one direction alone. If one that was recorded in an earlier run
        gives something else, the function has changed, and it is recorded anew.

        Raises:
            OtherWayError: There can be none, from now on, or only a smaller one.
        """
        program = self._program
        assert program is not None
        while True:
            try:
                started_s = time.perf_counter()
                with torch.no_grad():
                    block = program.block(chunk, places)
                self._program_s += time.perf_counter() - started_s
                if program.is_new or not (self.is_done or program.recording.is_trusted):
                    self._prove(program, chunk, block)
                self._announce(program)
                return block
            except DisagreementError:
                recording = program.recording
                why, again, lasts = "it gives other values than one direction alone", recording.was_known, True
            except Exception as error:  # only words leave this block: the traceback holds the program's tensors
                if is_out_of_memory(error) and program.shrink():
                    break
                why, again, lasts = first_line(error), False, not isinstance(error, NotFiniteError)
            if not (again and _is_renewed(program, chunk)):
                self._give_up(program, why, lasts=lasts)
                break
        raise OtherWayError

    def _prove(self, program: DerivativeProgram, chunk: slice, block: Tensors) -> None:
        """Compare a program's block with one direction."""
        self._compares = True
        with torch.no_grad():
            agrees_in_one_direction(self._ladder.one, self._seeds.batch(chunk), block, _the_second)
        program.recording.trust(program.size, replace(self._ladder.outputs, aux=None))

    def _announce(self, program: DerivativeProgram) -> None:
        """Say how the blocks are made from now on."""
        form = program.recording.form(program.size)
        if not self.is_done and form is not None:
            self.name = PROGRAM if form.bind is None else _COMPILED
            self._ladder.reasons.append(form.reason)
        self.is_done = True

    def _give_up(self, program: DerivativeProgram, why: str, *, lasts: bool) -> None:
        """Go on without a program, and so in later runs if the reason is no matter of these inputs."""
        program.refuse(why, lasts=lasts)
        self.release()
        self._ladder.reasons.append(f"no {PROGRAM}: {why}")

    def release(self) -> None:
        """Give the program's memory back; the ladder goes on."""
        self._program, self.is_done = None, False

    def finish(self, started_s: float) -> None:
        """Leave to later runs of the plan what this one tells, since it was started."""
        if self._program is None:
            return
        recording = self._program.recording
        if self.is_done:
            self._program.finish(self._program_s)
        elif self._ladder.compared is not None:
            recording.trust_batches(self._ladder.compared)
        compares = self._compares or self._ladder.compares
        is_unusual = compares and (self.is_done or recording.is_first)
        if self._is_usual and not is_unusual and not recording.has_recorded:
            recording.note_run(time.perf_counter() - started_s, by_program=self.is_done)
        self._program = None


def known_outputs(name: str, problem: Problem, programs: Records | None) -> Outputs | None:
    """Return what the function gives, if a mode's program need not be compared again; only ``aux`` is evaluated."""
    known = programs.knows(name, problem) if programs is not None else None
    return problem.evaluate()[1] if known is not None and problem.has_aux else known


def _is_renewed(program: DerivativeProgram, chunk: slice) -> bool:
    """Record a program anew; return whether that could be done."""
    try:
        with torch.no_grad():
            program.renew(chunk.stop - chunk.start)
    except Exception:
        return False
    return True


def _the_second(_seed: Tensors, _candidates: Sequence[Tensors]) -> int:
    """Take one direction alone for right: differences would see through ``detach``, and keep a program without it."""
    return 1
