"""Reverse mode: one forward pass with its graph, then rows of the Jacobian, a chunk at a time.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, section 3.2 (reverse propagation of
    several adjoints at once).
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from chunkjac._modes._ladder import Derivative
from chunkjac._modes._pullbacks import BatchedGrad, RowByRow, VmapVjp, VmapVjpWithGrad
from chunkjac._problem import Problem

_LADDER = (VmapVjp, VmapVjpWithGrad, BatchedGrad, RowByRow)


class Reverse(Derivative):
    """Make rows of the Jacobian.

    Args:
        problem: The function and its inputs.
        keeps_graph: Whether blocks can be differentiated again.

    Memory:
        Keeps what the forward pass saves for the backward pass, and the seeds of a chunk.
    """

    name: ClassVar[str] = "reverse"
    by_rows: ClassVar[bool] = True

    def __init__(self, problem: Problem, *, keeps_graph: bool = False) -> None:
        super().__init__(problem, {rung: partial(rung, problem) for rung in _LADDER}, keeps_graph=keeps_graph)

    @property
    def fell(self) -> bool:
        """Tell whether a rung is used that is slower than the first."""
        return self.rung not in (VmapVjp.name, VmapVjpWithGrad.name)
