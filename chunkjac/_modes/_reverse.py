"""Reverse mode: one forward pass with its graph, then ``vmap`` of the vjp for each chunk.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, section 3.2 (reverse propagation of
    several adjoints at once).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._backoff import first_line, is_out_of_memory
from chunkjac._chunker import OneHot
from chunkjac._modes._mode import Block
from chunkjac._problem import Problem, check_unchanged, outputs_of
from chunkjac._types import Outputs

_PLAIN = "vmap(vjp)"
_WITH_GRAD = "vmap(vjp), grad mode on"

# Stands where a tensor was; torch.func unwraps the tensors of an auxiliary result and nothing else.
_TENSOR = object()


class Reverse:
    """Make rows of the Jacobian.

    Everything runs under ``no_grad``: ``vjp_fn`` keeps the graph of every chunk when grad mode
    is on and the function captured a parameter that requires grad (141 MiB for a Jacobian of
    0.5 MiB, measured; 5 MiB so). torch.func turns grad mode on inside, where it is needed.

    Attributes:
        flows: Whether any output depends on an input as far as autograd sees.

    Memory:
        Keeps what the forward pass saves for the backward pass, and the seeds of a chunk.
    """

    name: ClassVar[str] = "reverse"
    batched: ClassVar[bool] = True
    seeds_per_direction: ClassVar[int] = 1
    by_rows: ClassVar[bool] = True

    def __init__(self, problem: Problem) -> None:
        self.rung = _PLAIN
        self.reasons: tuple[str, ...] = ()
        self.problem = problem
        self.outputs, self._vjp, self.flows = _linearize(problem, torch.no_grad())
        self._seeds = OneHot(self.outputs.leaves)
        self._works = False  # whether a block was made: later errors are the function's own

    def block(self, chunk: slice) -> Block:
        """Compute rows, ``(k, *input.shape)`` for each input."""
        try:
            rows = self._pull_back(chunk)
        except Exception as error:
            if self._works or self.rung != _PLAIN or is_out_of_memory(error):
                raise
            why = first_line(error)
        else:
            self._works = True
            return rows
        # A kernel may ask for grad mode itself, to save for its backward pass what it leaves out
        # otherwise (oneDNN's LSTM in float32).
        self._vjp = None  # its activations go before others come
        self.outputs, self._vjp, _ = _linearize(self.problem, torch.enable_grad())
        rows = self._pull_back(chunk)
        self.rung, self.reasons = _WITH_GRAD, (f"grad mode is on in the forward pass, since without: {why}",)
        return rows

    def _pull_back(self, chunk: slice) -> Block:
        """Pull the seeds of a chunk back through the graph."""
        with torch.no_grad():
            rows: Block = torch.func.vmap(self._vjp)(self._seeds.seeds(chunk))
        return rows

    def release(self) -> None:
        """Give the seeds back."""
        self._seeds.release()


def _linearize(problem: Problem, grad_mode: AbstractContextManager[Any]) -> tuple[Outputs, Any, bool]:
    """Run the forward pass; return what it gave, the map from seeds to rows, and whether a gradient flows."""
    told: dict[str, Any] = {}

    def call(*inputs: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
        leaves, told["spec"], aux = problem.call(*inputs)
        told["flows"] = any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves)
        told["leaves"] = outputs_of(leaves, told["spec"], None).leaves
        parts, told["aux_spec"] = tree_flatten(aux)
        told["aux"] = [_TENSOR if isinstance(part, torch.Tensor) else part for part in parts]
        return leaves, [part for part in parts if isinstance(part, torch.Tensor)]

    versions = [x._version for x in problem.inputs]
    with grad_mode:
        _, vjp, *aux_tensors = torch.func.vjp(call, *problem.inputs, has_aux=True)
    check_unchanged(problem.inputs, versions)
    tensors = iter(aux_tensors[0])
    aux = [next(tensors) if part is _TENSOR else part for part in told["aux"]]
    return Outputs(told["leaves"], told["spec"], tree_unflatten(aux, told["aux_spec"])), vjp, told["flows"]
