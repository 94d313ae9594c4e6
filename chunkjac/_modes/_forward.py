"""Forward mode: ``vmap`` of the jvp for each chunk.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, section 3.1 (forward propagation of
    several tangents at once).
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import ClassVar

import torch

from chunkjac._chunker import OneHot
from chunkjac._modes._mode import Block
from chunkjac._modes._zeros import ZeroProducts
from chunkjac._problem import Problem
from chunkjac._types import Outputs

# torch has one forward-AD level for the whole process: in two threads at once it gives wrong
# numbers, or crashes (torch.func.jacfwd does, torch 2.13).
_LEVEL = threading.RLock()


class Forward:
    """Make columns of the Jacobian.

    Args:
        problem: The function and its inputs.
        outputs: What the function returns, if it is known; otherwise it is evaluated once.

    Memory:
        Keeps the seeds of a chunk. Captured parameters that require grad keep no graph, since
        everything runs under ``no_grad`` (2201 MiB with, 262 MiB without, measured).
    """

    name: ClassVar[str] = "forward"
    batched: ClassVar[bool] = True
    seeds_per_direction: ClassVar[int] = 1
    by_rows: ClassVar[bool] = False

    def __init__(self, problem: Problem, outputs: Outputs | None = None) -> None:
        self.rung = "vmap(jvp)"
        self.flows = True  # columns of zeros do not show before they are computed
        self.reasons: tuple[str, ...] = ()
        self.problem = problem
        self.outputs = outputs or problem.evaluate()[1]
        self._seeds = OneHot(problem.leaves)
        self._skips_zeros = True  # until a block has shown that there are none worth it

    def block(self, chunk: slice) -> Block:
        """Compute columns, ``(k, *output.shape)`` for each output."""
        skipping = ZeroProducts() if self._skips_zeros else None
        with _LEVEL, torch.no_grad(), skipping or nullcontext():
            columns: Block = torch.func.vmap(self._push)(*self._seeds.seeds(chunk))
        self._skips_zeros = skipping is not None and skipping.pays
        return columns

    def release(self) -> None:
        """Give the seeds back."""
        self._seeds.release()

    def _push(self, *tangents: torch.Tensor) -> Block:
        """Push one tangent through the function."""
        columns: Block = torch.func.jvp(self.problem.flat, self.problem.inputs, tangents)[1]
        return columns
