"""Whether a derivative is known to be right, by the operations it is made of or by numbers."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._modes.derivatives.derivative import Derivative
from chunkjac._modes.derivatives.gradient import Gradient
from chunkjac._modes.known_nodes import known_nodes
from chunkjac._modes.referees.claims import ByColumns, ByRows, gap_between, judged
from chunkjac._modes.referees.slopes import slopes_along
from chunkjac._problem import Outputs, PrecisionWatcher, Problem

# Their derivatives are no slopes of theirs, but those that training is to go by: straight through the rounding.
_BY_DEFINITION = frozenset(
    {
        "FakeQuantizePerTensorAffineCachemaskBackward0",
        "FakeQuantizePerTensorAffineCachemaskTensorQparamsBackward0",
        "FakeQuantizePerChannelAffineCachemaskBackward0",
        "FakeQuantizeLearnablePerTensorAffineBackward0",
        "FakeQuantizeLearnablePerChannelAffineBackward0",
        "FusedMovingAvgObsFakeQuantHelperBackward0",
    }
)

# More names than that help nobody.
_MOST_NAMES = 3


def why_unsure(mode: Derivative) -> str | None:
    """Return why a mode's derivative is not known to be right; ``None`` if it is.

    It is where the samples of each operation in autograd's graph were differentiated rightly, also at the points where
    formulas fail (zeros, ties, singular matrices, repeated indices, overflow), and nothing is hidden from autograd.
    """
    problem = mode.problem
    if problem.departures.hidden:
        return f"numbers leave autograd ({_few(list(problem.departures.hidden))})"
    if mode.fell:
        return f"it runs by {mode.rung}"
    return _why_unknown(problem, mode.outputs, mode.name)


def means_the_same(forward: Derivative, reverse: Derivative) -> bool:
    """Tell whether forward mode gives what reverse mode gives, which is what torch.func.jacrev does.

    They differ where a part is under ``no_grad``, hooks change gradients, or an operation has two formulas.
    If all operations are known, and there is nothing of the kind, they do not; else one direction of each tells.
    """
    problem, outputs = reverse.problem, reverse.outputs
    if not problem.departures.divided and _why_unknown(problem, outputs, "forward") is None:
        return True
    if any(isinstance(x, FakeTensor) for x in problem.inputs):
        return False
    return gap_between(claim_of(forward), claim_of(reverse)).agrees


def is_flat(problem: Problem) -> bool:
    """Tell whether a function through which no gradient flows goes up in stairs, if at all: torch has seen all of it.

    Finite differences would divide a step of the stairs by their own.
    """
    told = problem.departures
    if told.hidden or told.kept or told.copied or any(isinstance(x, FakeTensor) for x in problem.inputs):
        return False
    try:
        with torch.no_grad(), PrecisionWatcher() as seen:
            zeros = tuple(map(torch.zeros_like, problem.flat(*(x.clone() for x in problem.inputs))))
        gap = judged(ByColumns(lambda _: zeros, problem), problem, slopes_along(problem))
    except Exception:
        return False
    return not seen.has_foreign and gap.agrees and gap.is_whole


def claim_of(mode: Derivative) -> ByColumns | ByRows:
    """Return what a mode says of the Jacobian, as its directions are made one by one."""
    if mode.by_rows:
        return ByRows(mode.apply, mode.outputs.leaves)
    return ByColumns(mode.apply, mode.problem)


def unknown_nodes(problem: Problem, outputs: Outputs, name: str, *, twice: bool = False) -> list[str] | None:
    """Return which nodes of autograd's graph are not known to be right in a mode; ``None`` if there is no graph.

    Args:
        problem: The function and its inputs.
        outputs: What it returns.
        name: The mode.
        twice: Whether the derivative is to be differentiated again.
    """
    gradient = problem.func if isinstance(problem.func, Gradient) else None
    nodes = outputs.nodes if gradient is None else gradient.nodes or None
    if nodes is None:
        return None
    is_second = twice or gradient is not None or bool(problem.departures.nested)
    kind = ("second " if is_second else "") + ("forward" if name == "forward" else "backward")
    return sorted(nodes - known_nodes("differentiated", kind) - (_BY_DEFINITION if kind == "backward" else set()))


def _why_unknown(problem: Problem, outputs: Outputs, name: str) -> str | None:
    """Return which of the operations are not known to be right in a mode; ``None`` if all are."""
    if "torch.func.jvp" in problem.departures.nested:
        return "forward derivatives within func"
    names = unknown_nodes(problem, outputs, name)
    if names is None:
        return "its operations are not seen"
    return f"not known to be right: {_few(names)}" if names else None


def _few(names: list[str]) -> str:
    """Return some names."""
    return ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
