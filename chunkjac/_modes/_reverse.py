"""Reverse mode: one forward pass with its graph, then ``vmap`` of the vjp for each chunk.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, section 3.2 (reverse propagation of
    several adjoints at once).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._chunker import OneHot
from chunkjac._modes._mode import Block
from chunkjac._problem import Problem, outputs_of
from chunkjac._types import Outputs

# Stands where a tensor was; torch.func unwraps the tensors of an auxiliary result and nothing else.
_TENSOR = object()


class Reverse:
    """Make rows of the Jacobian.

    Everything runs under ``no_grad``: ``vjp_fn`` keeps the graph of every chunk when grad mode
    is on and the function captured a parameter that requires grad (141 MiB for a Jacobian of
    0.5 MiB, measured; 5 MiB so). torch.func turns grad mode on inside, where it is needed.

    Memory:
        Keeps what the forward pass saves for the backward pass, and the seeds of a chunk.
    """

    name: ClassVar[str] = "reverse"
    by_rows: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        self.rung = "vmap(vjp)"
        self.reasons: tuple[str, ...] = ()
        self.problem = problem
        self.outputs, self._vjp = _linearize(problem)
        self._seeds = OneHot(self.outputs.leaves)

    def block(self, chunk: slice) -> Block:
        """Compute rows, ``(k, *input.shape)`` for each input."""
        with torch.no_grad():
            rows: Block = torch.func.vmap(self._vjp)(self._seeds.seeds(chunk))
        return rows

    def release(self) -> None:
        """Give the seeds back."""
        self._seeds.release()


def _linearize(problem: Problem) -> tuple[Outputs, Any]:
    """Run the forward pass; return what it gave and the map from seeds to rows."""
    told: dict[str, Any] = {}

    def call(*inputs: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
        leaves, told["spec"], aux = problem.call(*inputs)
        told["leaves"] = outputs_of(leaves, told["spec"], None).leaves
        parts, told["aux_spec"] = tree_flatten(aux)
        told["aux"] = [_TENSOR if isinstance(part, torch.Tensor) else part for part in parts]
        return leaves, [part for part in parts if isinstance(part, torch.Tensor)]

    with torch.no_grad():
        _, vjp, *aux_tensors = torch.func.vjp(call, *problem.inputs, has_aux=True)
    tensors = iter(aux_tensors[0])
    aux = [next(tensors) if part is _TENSOR else part for part in told["aux"]]
    return Outputs(told["leaves"], told["spec"], tree_unflatten(aux, told["aux_spec"])), vjp
