"""The rungs: which is used, and how one is left for the next.

A rung is given up when it cannot run the function, and also when its blocks of several directions
are not what one direction alone tells: some operations have wrong batching rules
(the backward pass of ``cdist`` under ``vmap``, torch 2.13), and nothing else would show it.
The first block is compared at once, and all others together at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    UnsupportedOperatorException,
)

from chunkjac._errors import ChunkjacError, FunctionError, add_note
from chunkjac._memory import are_limited, drain_backward, first_line, is_out_of_memory
from chunkjac._modes.derivatives.rung import Rung
from chunkjac._modes.mode import OtherWayError
from chunkjac._modes.referee import nearer
from chunkjac._modes.witness import Witness
from chunkjac._problem import Problem
from chunkjac._tensors import Tensors, are_apart


class _DisagreementError(Exception):
    """Say that blocks are not what one direction alone tells."""


# What a dry run raises where values would be needed: it tells nothing about a rung.
FAKE_ONLY = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


class Ladder:
    """Apply a derivative on one rung, and on the next from where that one fails.

    Args:
        problem: The function and its inputs.
        rungs: The rungs and what makes each, the fastest first.
        by_rows: Whether seeds are like the outputs.
        keeps_graph: Whether blocks can be differentiated again.

    Attributes:
        rung: The rung in use.
        reasons: Why it is no faster way.
        compares: Whether any block was compared with one direction.
        goes_alone: Whether directions are computed one after the other, whatever the rung could.
        gives_away: Whether the last block's memory is nobody else's.
        is_counted: Whether blocks are counted that may hold something new.
        is_doubtful: Whether every block is to be counted: one that was not would have taken another rung.
    """

    def __init__(
        self,
        problem: Problem,
        rungs: Mapping[type[Rung], Callable[[], Rung]],
        *,
        by_rows: bool,
        keeps_graph: bool,
    ) -> None:
        self.rung: Rung
        self._witness: Witness  # of the blocks behind the first
        self.reasons: list[str] = []
        self.compares = self.gives_away = self.goes_alone = self.is_counted = self.is_doubtful = False
        self._rungs = dict(rungs)
        self._keeps_graph = keeps_graph
        self._works = False  # whether a block was made: later errors are the function's own
        self._is_comparable = problem.randomness != "different"  # with other random numbers for each, none can be
        self._nearer = partial(nearer, problem, by_rows=by_rows)  # to a central difference
        self._climb()  # its prologue tells what the function returns

    @property
    def is_unsure(self) -> bool:
        """Tell whether the rung's blocks must be compared with one direction."""
        return self._is_comparable and self.rung.batched and not (self.rung.is_sure or self.goes_alone)

    def watch(self, witness: Witness) -> None:
        """Combine blocks that may be wrong."""
        self._witness = witness
        if self.is_unsure:
            witness.prepare()

    def block(self, seeds: Tensors, start: int) -> Tensors:
        """Apply the derivative to ``(k, *leaf.shape)`` of seeds, those from a direction on.

        Raises:
            OtherWayError: It would take another rung, and is to be counted.
        """
        return self._applied(lambda: self._block(seeds, start), waits=self.is_counted)

    def is_confirmed(self) -> bool:
        """Compare all blocks with one direction; where they are not what it tells, another rung is used from then on.

        Where there is no room for that, directions are computed one after the other, which needs no comparison.

        Raises:
            FunctionError: There is none.
        """
        if not self._witness.n_noted:
            return True
        try:
            with torch.no_grad():
                if self._witness.agrees(self.rung.one, nearer=self._nearer):
                    return True
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self.goes_alone, self._witness = True, self._witness.like()  # its memory goes
            self.reasons.append("one direction at a time, since there is no room to compare several with one")
            return False
        self._witness.forget()
        why = self._why_not(_DisagreementError())
        if not self._rungs:
            raise FunctionError(f"{why}; another mode= may do, or chunk_size=1.")
        self._works = False
        self._leave(why)
        return False

    def one(self, seed: Tensors) -> Tensors:
        """Apply the derivative to a single seed."""
        return self._applied(lambda: self.rung.one(seed))

    def recordable(self, seed: Tensors) -> Tensors:
        """Apply the derivative to a single seed by what can be recorded."""
        return self.rung.recordable(seed)

    def close(self) -> None:
        """Let go of what the prologue keeps."""
        self.rung.close()

    def _applied(self, compute: Callable[[], Tensors], *, waits: bool = False) -> Tensors:
        """Compute on the rung that is in use, and on the next where that cannot."""
        while True:
            try:
                return compute()
            except Exception as error:
                if self._works or not self._rungs or is_final(error):
                    self._note_on(error)
                    raise
                why = self._why_not(error)
            if waits and not (self.is_doubtful or are_limited()):
                self.is_doubtful = True
                raise OtherWayError
            self._leave(why)

    def _leave(self, why: str) -> None:
        """Leave the rung for the next."""
        self.rung.close()  # its activations go before others come
        drain_backward()
        self.reasons.append(why)
        self._climb()

    def _block(self, seeds: Tensors, start: int) -> Tensors:
        """Compute a block on the rung that is in use."""
        n_rows = len(seeds[0])
        self.gives_away = False
        with torch.set_grad_enabled(self._keeps_graph):
            if n_rows > 1 and self.rung.batched and not self.goes_alone:
                block = self.rung.many(seeds)
                self.gives_away = self.rung.is_sure and are_apart((*seeds, *block))  # made for it, and no seed
                if self.is_unsure:
                    self._compare(block, start)
                is_fake = any(isinstance(values, FakeTensor) for values in block)
                self._works = self._works or not (
                    self.is_unsure and is_fake
                )  # each fake one takes what the first takes
            else:
                block = _one_by_one(self.rung, seeds, n_rows)
                self._works = self._works or not self.rung.batched or self.goes_alone
        return block

    def _compare(self, block: Tensors, start: int) -> None:
        """Compare a block with one direction: the first one at once."""
        with torch.no_grad():
            self._witness.note(start, block)
            if not self._works:
                self.compares = True
                is_right = self._witness.agrees(self.rung.one, nearer=self._nearer)
                self._witness.forget()
                if not is_right:
                    raise _DisagreementError

    def _climb(self) -> None:
        """Take the next rung whose prologue can run the function."""
        while True:
            kind = next(iter(self._rungs))  # it stays where memory runs out: a smaller chunk comes here again
            try:
                with torch.set_grad_enabled(self._keeps_graph):
                    self.rung = self._rungs[kind]()
                del self._rungs[kind]
                return
            except Exception as error:
                if is_final(error):
                    raise
                self._rungs = {rung: make for rung, make in self._rungs.items() if rung.prologue != kind.prologue}
                if not self._rungs:
                    self._note_on(error)
                    raise
                why = f"{kind.name} cannot run func: {first_line(error)}"
            self.reasons.append(why)

    def _note_on(self, error: Exception) -> None:
        """Say what was tried before, unless that has nothing to do with it."""
        for reason in () if self._works or is_final(error) else self.reasons:
            add_note(error, f"chunkjac: {reason}")

    def _why_not(self, error: Exception) -> str:
        """Say why the rung is left."""
        if isinstance(error, _DisagreementError):
            return f"{self.rung.name} gives other values for several directions than for one alone"
        return f"{self.rung.name} cannot run func: {first_line(error)}"


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
