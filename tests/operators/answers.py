"""A Jacobian, or the error that there was instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils._pytree import tree_leaves

import chunkjac as cj
from tests.operators.cases import seed
from tests.operators.referees import Jacobian


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold what a call gave.

    Attributes:
        parts: The Jacobian's tensors, the first output by every input first; ``None`` if it was refused.
        error: The type and the first line of the error, if there was one.
        rung: How chunkjac ran, if it told.
    """

    parts: Jacobian | None = None
    error: str = ""
    rung: str = ""


def ask(call: Callable[[], Any]) -> Answer:
    """Call, with the random numbers begun again."""
    seed()
    try:
        found = call()
    except Exception as error:
        lines = str(error).strip().splitlines()
        return Answer(error=f"{type(error).__name__}: {lines[0] if lines else ''}"[:300])
    if isinstance(found, tuple) and found and isinstance(found[-1], cj.Report):
        return Answer([part.detach() for part in tree_leaves(found[0])], rung=found[-1].plan.rung)
    return Answer([part.detach() for part in tree_leaves(found)])
