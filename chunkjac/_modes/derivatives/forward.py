"""Forward mode: columns of the Jacobian, a chunk at a time.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, section 3.1 (forward propagation of
    several tangents at once).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import ClassVar

from chunkjac._chunker import Directions, ElementDirections
from chunkjac._errors import FunctionError
from chunkjac._modes.derivatives.derivative import Derivative
from chunkjac._modes.derivatives.double_backward import DoubleBackward, DoubleBackwardOneByOne
from chunkjac._modes.derivatives.nesting import NestingWatcher
from chunkjac._modes.derivatives.pushforwards import ColumnByColumn, VmapJvp, VmapJvpPlain
from chunkjac._modes.derivatives.rung import Rung
from chunkjac._modes.referees.evaluation import evaluated
from chunkjac._problem import CallWatcher, Leaf, Outputs, Problem, WriteWatcher
from chunkjac._tensors import overlaps_itself

_BY_TANGENTS = (VmapJvp, VmapJvpPlain, ColumnByColumn)
_LADDER = (VmapJvp, VmapJvpPlain, DoubleBackward, ColumnByColumn, DoubleBackwardOneByOne)


class Forward(Derivative):
    """Make columns of the Jacobian.

    Args:
        problem: The function and its inputs.
        outputs: What the function returns, if it is known; otherwise it is evaluated once.
        keeps_graph: Whether blocks can be differentiated again.
        by_tangents: Whether rungs by double backward are left out, which use what reverse mode uses.
        directions: What is made instead of single columns: combinations of them.

    Memory:
        Keeps the seeds of a chunk; on the rungs by double backward also what two passes save.
    """

    name: ClassVar[str] = "forward"
    by_rows: ClassVar[bool] = False
    evaluated = staticmethod(evaluated)
    _fast = (VmapJvp,)

    def __init__(
        self,
        problem: Problem,
        outputs: Outputs | None = None,
        *,
        keeps_graph: bool = False,
        by_tangents: bool = False,
        directions: Callable[[Sequence[Leaf]], Directions] = ElementDirections,
    ) -> None:
        self._way = self.name
        # Inputs that overlap themselves have no forward derivative: torch.func.jacfwd refuses expanded ones, and is
        # wrong where as_strided has made them (torch 2.13).
        problem = problem.with_inputs([x.contiguous() if overlaps_itself(x) else x for x in problem.inputs])
        started_s = time.perf_counter()
        known = outputs or _evaluate(problem)
        ladder: dict[type[Rung], Callable[[], Rung]] = {
            rung: partial(rung, problem, known) for rung in (_BY_TANGENTS if by_tangents else _LADDER)
        }
        super().__init__(problem, ladder, keeps_graph=keeps_graph, directions=directions)
        # A direction with its tangents takes as long as three evaluations to record.
        self._evaluation_s += 3 * (time.perf_counter() - started_s)


def _evaluate(problem: Problem) -> Outputs:
    """Evaluate the function; refuse random numbers where each direction would draw its own unasked."""
    if problem.randomness != "error":
        return evaluated(problem)
    with CallWatcher(WriteWatcher()) as calls, NestingWatcher() as nesting:
        outputs = evaluated(problem)
    if calls.draws_apart or problem.draws.drew:
        raise FunctionError(
            "func draws random numbers, and forward mode evaluates it for each chunk (vmap: called random operation "
            "while in randomness error mode); give randomness='same' or 'different', or use mode='reverse'."
        )
    return replace(outputs, nests=nesting.seen)
