"""The values of a chunk's points: by a program, in a batch, or one by one."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from chunkjac._chunker import PerturbedCopies
from chunkjac._memory import first_line, is_out_of_memory
from chunkjac._modes.differences.loop import OneByOne, called
from chunkjac._modes.differences.rows import same_within_noise
from chunkjac._modes.differences.rungs import Ladder
from chunkjac._modes.differences.stencil import Points, Spans, Stencil
from chunkjac._modes.mode import OtherWayError
from chunkjac._modes.vmap import is_warm
from chunkjac._programs import DifferenceProgram, ModeRecord, PlainEvaluation, Usage
from chunkjac._tensors import Tensors


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Hold what a function gives at the points of a chunk.

    Attributes:
        chunk: The directions: those that were asked for, and with a program perhaps some before them.
        placed: Their points.
        values: What the copies gave, row by row; ``None`` where the points are to be evaluated one by one.
    """

    chunk: slice
    placed: Points
    values: Tensors | None


class Evaluator:
    """Evaluate a function at the points of chunks.

    Args:
        ladder: What finds how it takes several points.
        hint: How it took them in an earlier run of a plan; empty without one.

    Attributes:
        rung: How it takes several points by now.
        program: What evaluates chunks by a program; ``None`` if nothing does.
        one_by_one: What evaluates one point after the other.
    """

    def __init__(self, ladder: Ladder, hint: str) -> None:
        self.rung = rung = ladder.start(hint)
        self.program: DifferenceProgram | None = None
        self.one_by_one = OneByOne(ladder.problem, ladder.first.seen.outputs, ladder.point)
        self._has_given_up = False
        self._ladder, self._hint = ladder, hint
        self._stencil = stencil = ladder.stencil
        self._places: Stencil | Spans = stencil
        self._last = rung.known.point if rung.known else ()  # a row of batches also on a lower rung
        scheme = stencil.scheme
        self._copies = PerturbedCopies(ladder.point, scheme.n_evaluations, scheme.with_base, self._last or None)

    @property
    def fell(self) -> bool:
        """Tell whether copies are evaluated one by one though nobody asked for it."""
        return self.rung.call is None and self._ladder.batching == "auto"

    def look_ahead(self) -> None:
        """Have points worked out for many chunks at once, in memory that nobody counts."""
        self._places = Spans(self._stencil)

    def use_program(self, record: ModeRecord, usage: Usage) -> None:
        """Let batches be evaluated by a program, where that is worth recording one."""
        if self.rung.call is None:
            return
        # Not this itself: in a circle, the function and its inputs would stay until Python collects garbage.
        copies, places, seen = self._copies, self._places, self._ladder.first.seen
        evaluation = PlainEvaluation(
            problem=self._ladder.problem,
            call=self.rung.call,
            batch=lambda chunk: copies.batch(chunk, places.place(chunk).points),
            copies=copies.layout,
            last=self._last,
            agrees=partial(same_within_noise, eps=seen.eps),
            seen=seen,
        )
        self.program = DifferenceProgram(evaluation, record, usage)

    def evaluate(self, chunk: slice) -> Evaluated:
        """Evaluate the function at the points of a chunk, unless that is to be done one by one.

        Raises:
            OtherWayError: A program is given up.
        """
        whole = self.program.takes(chunk) if self.program is not None else None
        if self.program is not None and whole is not None:
            values = self._by_program(self.program, whole)
            return Evaluated(whole, self._places.place(whole), values)
        placed = self._places.place(chunk)
        return Evaluated(chunk, placed, self._in_a_batch(chunk, placed))

    def chunk_bytes(self, direction_bytes: int) -> int:
        """Return what the next chunk by a program takes beside its memory; 0 if there is none."""
        return 0 if self.program is None else self.program.chunk_bytes(direction_bytes)

    def release(self) -> None:
        """Give the copies back, and a program's memory."""
        if self.program is not None:
            self._has_given_up = self._has_given_up or self.program.was_used
            self.program.release()
        self._copies.release()
        self._places = self._stencil
        self.one_by_one.release()

    def rest(self) -> None:
        """Give the copies back until the next points."""
        self._copies.release()
        self.one_by_one.release()

    def has_given_up(self) -> bool:
        """Tell whether a way was given up that had made values, since this was asked the last time."""
        program = self.program
        if program is not None and program.was_used and program.refused:  # it was slower
            self.program, self._has_given_up = None, True
        has_given_up, self._has_given_up = self._has_given_up, False
        return has_given_up

    def give_up(self, fault: str) -> None:
        """Go on in another way: without a program if there is one, else a rung lower."""
        if self.program is not None and self.program.was_used:
            self._refuse(self.program, fault)
        else:
            self._fall(fault)

    def _by_program(self, program: DifferenceProgram, chunk: slice) -> Tensors:
        """Evaluate the copies of a chunk by a program.

        Raises:
            OtherWayError: It is given up.
        """
        try:
            values = program.values(chunk)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._refuse(program, first_line(error))
            raise OtherWayError from None
        if not self._is_right(values):
            self._refuse(program, "it gives other values than the function")
            raise OtherWayError
        return values

    def _in_a_batch(self, chunk: slice, placed: Points) -> Tensors | None:
        """Evaluate the function at all copies of a chunk at once; ``None`` if they must go one by one."""
        n_directions = chunk.stop - chunk.start
        while self.rung.call is not None:
            tells, started_s = is_warm(), time.perf_counter()
            try:
                values = called(self.rung.call, self._copies.batch(chunk, placed.points))
            except Exception as error:
                ran_out = is_out_of_memory(error)
                if self._ladder.batching != "auto" or (ran_out and n_directions > 1):
                    raise
                fault = "there is no room" if ran_out else first_line(error)
            else:
                if self._is_right(values):
                    if self.program is not None and tells:
                        self.program.note(n_directions, time.perf_counter() - started_s)
                    return values
                del values
                fault = "a row's value is not that of its point alone"
            self._fall(f"in a batch for {n_directions} directions, {fault}")
        return None

    def _refuse(self, program: DifferenceProgram, why: str) -> None:
        """Go on without a program."""
        program.refuse(why)
        self._has_given_up = True

    def _fall(self, fault: str) -> None:
        """Go on a rung lower."""
        self._copies.release()
        if self.program is not None:
            self._refuse(self.program, "the copies are evaluated in another way")
            self.program = None
        self.rung = self._ladder.below(self.rung, fault)
        self._has_given_up = True

    def _is_right(self, values: Tensors) -> bool:
        """Tell whether the last row of a batch is what it is alone."""
        return self.rung.known is None or self.rung.known.is_last_of(values)
