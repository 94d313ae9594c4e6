"""What reverse and forward mode share: a ladder, and a program that takes over from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import torch

from chunkjac._chunker import Directions, ElementDirections, Seeds
from chunkjac._modes.derivatives.graph_nodes import are_fused
from chunkjac._modes.derivatives.ladder import Ladder
from chunkjac._modes.derivatives.pullbacks import BatchedGrad
from chunkjac._modes.derivatives.rung import Rung
from chunkjac._modes.derivatives.takeover import PROGRAM, Takeover
from chunkjac._modes.vmap import is_warm
from chunkjac._modes.witness import Witness
from chunkjac._problem import Leaf, Outputs, Problem
from chunkjac._programs import DerivativeProgram, PlainDerivative, Records, Usage
from chunkjac._tensors import Tensors

# A node takes so long in an evaluation; a direction takes 0.05 to 1.4 evaluations, but for that (20 functions).
_CALL_S, _LEAST_SHARE, _LONG_S = 1e-5, 0.05, 0.05


# A method for each question that is asked of a mode; the answers are the takeover's or the ladder's.
class Derivative:
    """Be what reverse and forward mode have in common: a ladder, and a program that may take over from it.

    Args:
        problem: The function and its inputs.
        rungs: The rungs and what makes each, the fastest first.
        keeps_graph: Whether blocks can be differentiated again.
        directions: What they are, of seeds like some leaves.
    """

    name: ClassVar[str]
    by_rows: ClassVar[bool]
    seeds_per_direction: ClassVar[int] = 1
    largest_bytes: ClassVar[int] = 0
    _fast: ClassVar[tuple[type[Rung], ...]]
    _way: str

    def __init__(
        self,
        problem: Problem,
        rungs: Mapping[type[Rung], Callable[[], Rung]],
        *,
        keeps_graph: bool = False,
        directions: Callable[[Sequence[Leaf]], Directions] = ElementDirections,
    ) -> None:
        self._started_s = time.perf_counter()
        self.problem = problem
        self.gives_away = False
        self._ladder = Ladder(problem, rungs, by_rows=self.by_rows, keeps_graph=keeps_graph)
        self.directions = directions(self.outputs.leaves if self.by_rows else problem.leaves)
        self._row = problem.leaves if self.by_rows else self.outputs.leaves
        self._ladder.watch(Witness(self.directions, self._row))
        self._seeds = Seeds(self.directions)
        self._takeover: Takeover | None = None
        self._may_be_taken_over = not keeps_graph and problem.randomness != "different"
        self._evaluation_s = time.perf_counter() - self._started_s

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return why it is no faster way."""
        return tuple(self._ladder.reasons)

    @property
    def outputs(self) -> Outputs:
        """Return what the function returns."""
        return self._ladder.rung.outputs

    @property
    def flows(self) -> bool:
        """Tell whether any output depends on an input as far as the rung sees."""
        return self._ladder.rung.flows

    @property
    def rung(self) -> str:
        """Return the name of the way in which the mode runs."""
        takeover = self._takeover
        return takeover.name if takeover is not None and takeover.is_done else self._ladder.rung.name

    @property
    def fell(self) -> bool:
        """Tell whether a rung is used that is slower than the first."""
        is_taken_over = self._takeover is not None and self._takeover.is_done
        return not is_taken_over and (type(self._ladder.rung) not in self._fast or not self.batched)

    @property
    def batched(self) -> bool:
        """Tell whether the directions of a chunk are computed together."""
        return self._ladder.rung.batched and not self._ladder.goes_alone

    @property
    def is_long(self) -> bool:
        """Tell whether the whole takes long, however fast a direction is: so that preparing for it may pay."""
        calls_s = _CALL_S * self.outputs.n_nodes  # once for a chunk
        return self.batched and _LEAST_SHARE * (self._evaluation_s - calls_s) * self.directions.n > _LONG_S

    @property
    def writes_in_place(self) -> bool:
        """Tell whether the next block is made in places that are lent for it: a program's is."""
        return self._takeover is not None and self._takeover.is_ready

    @property
    def is_new(self) -> bool:
        """Tell whether the next block begins another way, which holds other memory than those before."""
        return self._ladder.is_doubtful or (self._takeover is not None and self._takeover.is_new)

    def program_bytes(self, direction_bytes: int) -> int:
        """Return what the next chunk by a linear program takes; see :meth:`Mode.program_bytes`."""
        return 0 if self._takeover is None else self._takeover.chunk_bytes(direction_bytes)

    def use_programs(self, programs: Records, usage: Usage) -> None:
        """Let a linear program make blocks, where that is worth it; see :meth:`Mode.use_programs`."""
        record = programs.of(self._way)
        self._ladder.is_counted = usage.is_counted
        if record.refused:
            self._ladder.reasons.append(f"no {PROGRAM}: {record.refused}")
        elif self.batched and self._may_be_taken_over:
            record.is_fused = record.is_fused or are_fused(self.outputs.nodes)
            witness, rung = Witness(self.directions, self._row, record.weights), self._ladder.rung
            plain = PlainDerivative(
                way=self._way,
                apply=self._ladder.recordable,
                seed=witness.planned_seed,
                directions=self.directions,
                evaluation_s=self._evaluation_s,
                n_nodes=self.outputs.n_nodes,
                autograd=rung.autograd if isinstance(rung, BatchedGrad) else None,
            )
            self._takeover = Takeover(self._ladder, witness, DerivativeProgram(plain, programs, usage), usage)

    def repeats_what_was_counted(self, n_left: int) -> bool:
        """Tell whether a program comes next, of a size that was counted, and nothing has changed that matters."""
        return self._takeover is not None and self._takeover.repeats_what_was_counted(n_left)

    def wanted_size(self, n_left: int) -> int | None:
        """Return the only chunk size that a program takes, which is recorded where that is worth it."""
        return None if self._takeover is None else self._takeover.wanted_size(n_left)

    def block(self, chunk: slice, places: Tensors | None = None) -> Tensors:
        """Compute ``(k, *leaf.shape)`` for each leaf: rows by inputs, or columns by outputs."""
        self.gives_away = False
        if self._takeover is not None and self._takeover.is_ready:
            return self._takeover.block(chunk, places)
        was_warm, started_s = is_warm(), time.perf_counter()
        block = self._ladder.block(self._seeds.batch(chunk), chunk.start)
        self.gives_away = self._ladder.gives_away
        if was_warm and self._takeover is not None:
            self._takeover.note(chunk.stop - chunk.start, time.perf_counter() - started_s)
        return block

    def apply(self, seed: Tensors) -> Tensors:
        """Apply the derivative to any seed: ``w J`` in reverse mode, ``J u`` in forward mode."""
        with torch.no_grad():
            return self._ladder.one(seed)

    def is_confirmed(self) -> bool:
        """Tell whether all blocks are what single directions tell; if not, they are to be made again."""
        return (self._takeover is None or self._takeover.is_confirmed()) and self._ladder.is_confirmed()

    def release(self) -> None:
        """Give the seeds back, and the program's memory."""
        self._seeds.release()
        if self._takeover is not None:
            self._takeover.release()

    def close(self) -> None:
        """Give the seeds back, and what the prologue keeps; leave word to later runs of the plan."""
        self._seeds.release()
        if self._takeover is not None:
            self._takeover.finish(self._started_s)
        self._ladder.close()
