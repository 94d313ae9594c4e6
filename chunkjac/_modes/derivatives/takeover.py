"""Blocks by a program: taken over, compared, given up."""

from __future__ import annotations

import time

import torch

from chunkjac._memory import first_line, is_out_of_memory
from chunkjac._modes.derivatives.ladder import Ladder
from chunkjac._modes.mode import OtherWayError
from chunkjac._modes.witness import Witness
from chunkjac._programs import DerivativeProgram, Usage
from chunkjac._tensors import Tensors

PROGRAM = "linear program"
_COMPILED = f"{PROGRAM}, compiled"
_WRONG = "it gives other values than one direction alone"

# A node takes so long in a chunk, whatever its size.
_NODE_S = 20e-6


class Takeover:
    """Make blocks by a program from where that is worth it, as long as it gives what a ladder does.

    Args:
        ladder: What blocks are made on before, and after; it also computes the one direction that tells.
        witness: What the blocks of programs are combined in.
        program: What makes them.
        usage: What this run lets it do.

    Attributes:
        is_done: Whether blocks are made by a program.
        name: The name of that way.
    """

    def __init__(self, ladder: Ladder, witness: Witness, program: DerivativeProgram, usage: Usage) -> None:
        self.is_done = False
        self.name = PROGRAM
        self._witness = witness
        self._ladder = ladder
        self._program: DerivativeProgram | None = program
        self._program_s = 0.0
        self._is_usual = not usage.counts_again
        self._is_counted = usage.is_counted
        self._compares = False  # whether the first block of a program was compared with one direction

    @property
    def is_ready(self) -> bool:
        """Tell whether a program makes the next block."""
        return self._program is not None and self._program.is_ready

    @property
    def is_new(self) -> bool:
        """Tell whether the next block is the first that a program makes."""
        return self._program is not None and self._program.is_ready and self._program.is_new

    def chunk_bytes(self, direction_bytes: int) -> int:
        """Return what the next chunk by the program takes beside its memory, and one direction if it is compared."""
        program = self._program
        if program is None or not program.is_ready:
            return 0
        compared_bytes = direction_bytes if program.is_new else 0
        return max(program.chunk_bytes, self._witness.most_bytes(program.size) + compared_bytes)

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell whether a program comes next, of a size that was counted, for a function of the same operations."""
        return self._is_usual and self._program is not None and self._program.is_known(n_left)

    def wanted_size(self, n_left: int) -> int | None:
        """Return how many directions the program takes next, recorded where that is worth it; ``None`` for none."""
        while self._program is not None:
            if not (self.is_done or (self._ladder.rung.batched and self._program.is_due(n_left))):
                return None
            try:
                with torch.no_grad():
                    size = self._program.wanted_size(n_left)
            except Exception as error:
                if not (is_out_of_memory(error) and self._program.shrink()):
                    self._give_up(self._program, first_line(error))
            else:
                self._is_usual = self._is_usual and not (self._is_counted and self._program.is_new)  # counting is slow
                return size
        return None

    def note(self, n_rows: int, seconds: float) -> None:
        """Take in how long the ladder took for so many directions."""
        if self._program is not None:
            self._program.note(n_rows, seconds, _NODE_S * self._ladder.rung.outputs.n_nodes)

    def block(self, chunk: slice, places: Tensors | None) -> Tensors:
        """Compute a block by the program; the first of each size is compared with one direction at once.

        Raises:
            OtherWayError: There can be none, from now on, or only a smaller one.
        """
        program = self._program
        assert program is not None
        why = _WRONG
        try:
            started_s = time.perf_counter()
            with torch.no_grad():
                block = program.block(chunk, places)
                if program.is_new:
                    is_right = self._is_right(program, chunk.start, block)
                else:
                    is_right = True
                    self._witness.note(chunk.start, block)
            self._program_s += time.perf_counter() - started_s
            if is_right:
                self._announce(program)
                return block
        except Exception as error:  # only words leave this block: the traceback holds the program's tensors
            if is_out_of_memory(error) and program.shrink():
                raise OtherWayError from None
            why = first_line(error)
        self._give_up(program, why)
        raise OtherWayError

    def is_confirmed(self) -> bool:
        """Compare all blocks with one direction; where they are not what it tells, there is no program from then on."""
        if not self._witness.n_noted or self._program is None:
            return True
        program = self._program
        alone = program.recording.made
        program.release()
        try:
            with torch.no_grad():
                if self._witness.agrees(self._ladder.one, alone):
                    program.recording.learn_weights(self._witness.next_weights())
                    return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        self._give_up(program, _WRONG)
        return False

    def _is_right(self, program: DerivativeProgram, start: int, block: Tensors) -> bool:
        """Compare the first block of a program with one direction."""
        self._compares = True
        first = self._witness.like()
        first.note(start, block)
        is_right = first.agrees(self._ladder.one)
        if is_right:
            program.recording.trust(program.size)
        return is_right

    def _announce(self, program: DerivativeProgram) -> None:
        """Say how the blocks are made from now on."""
        form = program.recording.form(program.size)
        if not self.is_done and form is not None:
            self.name = PROGRAM if form.bind is None else _COMPILED
            self._ladder.reasons.append(form.reason)
        self.is_done = True

    def _give_up(self, program: DerivativeProgram, why: str) -> None:
        """Go on without a program, and so in later runs."""
        program.refuse(why)
        self._program, self.is_done = None, False
        self._witness = self._witness.like()  # its memory goes
        self._ladder.reasons.append(f"no {PROGRAM}: {why}")

    def release(self) -> None:
        """Give the program's memory back; the ladder goes on."""
        if self._program is not None:
            self._program.release()
        self._program, self.is_done = None, False

    def finish(self, started_s: float) -> None:
        """Leave to later runs of the plan what this one tells, since it was started."""
        if self._program is None:
            return
        recording = self._program.recording
        if self.is_done:
            self._program.finish(self._program_s)
        is_unusual = (self._compares or self._ladder.compares) and (self.is_done or recording.is_first)
        if self._is_usual and not is_unusual and not recording.has_recorded:
            recording.note_run(time.perf_counter() - started_s, by_program=self.is_done)
        self._program.release()
        self._program = None
