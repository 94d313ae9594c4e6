"""Reverse mode: rows of the Jacobian, a chunk at a time.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, section 3.2 (reverse propagation of
    several adjoints at once).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

from chunkjac._chunker import Directions, ElementDirections
from chunkjac._modes.derivatives.derivative import Derivative
from chunkjac._modes.derivatives.pullbacks import (
    BatchedGrad,
    RowByRow,
    VmapGrad,
    VmapGradPlain,
    VmapVjp,
    VmapVjpPlain,
    VmapVjpWithGrad,
)
from chunkjac._modes.derivatives.rung import Rung
from chunkjac._problem import Leaf, Problem
from chunkjac._programs import Records

_LADDER = (VmapVjp, VmapVjpWithGrad, BatchedGrad, RowByRow)


class Reverse(Derivative):
    """Make rows of the Jacobian.

    Args:
        problem: The function and its inputs.
        keeps_graph: Whether blocks can be differentiated again.
        is_quick: Whether memory is plenty, and time short.
        programs: What earlier runs of a plan have recorded.
        directions: What is made instead of single rows: combinations of them.

    Memory:
        Keeps what the forward pass saves for the backward pass, and the seeds of a chunk.
    """

    name: ClassVar[str] = "reverse"
    by_rows: ClassVar[bool] = True
    _fast = (VmapGrad, VmapGradPlain, VmapVjp, VmapVjpPlain, VmapVjpWithGrad)

    def __init__(
        self,
        problem: Problem,
        *,
        keeps_graph: bool = False,
        is_quick: bool = False,
        programs: Records | None = None,
        directions: Callable[[Sequence[Leaf]], Directions] = ElementDirections,
    ) -> None:
        self._way = self.name if is_quick else f"{self.name} by vjp"  # whose graph nobody can read
        is_plain = programs is not None and not keeps_graph and programs.records_plainly(self._way)
        quick, plain = (VmapGrad, VmapGradPlain) if is_quick else (VmapVjp, VmapVjpPlain)
        rungs = (plain if is_plain else quick, *_LADDER)
        ladder: dict[type[Rung], Callable[[], Rung]] = {rung: partial(rung, problem) for rung in rungs}
        super().__init__(problem, ladder, keeps_graph=keeps_graph, directions=directions)
