"""The rungs of reverse mode: ways to send seeds back through a graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch.func import vjp, vmap
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from chunkjac._modes.derivatives.backward_pass import pulled_back
from chunkjac._modes.derivatives.graph_nodes import (
    are_fused,
    are_sure,
    names_of,
    needs_grad_mode,
    nodes_behind,
    numel_of,
)
from chunkjac._modes.vmap import at_once
from chunkjac._problem import Outputs, Problem, check_unchanged, plain_kernels
from chunkjac._programs import Autograd
from chunkjac._tensors import Tensors

# Stands where a tensor was; torch.func unwraps the tensors of an auxiliary result and nothing else.
_TENSOR = object()


class VmapVjp:
    """Send the seeds of a chunk back at once, by ``vmap`` of torch.func's vjp.

    The forward pass runs in the caller's grad mode, ``no_grad`` unless blocks keep their graph:
    ``vjp`` keeps the graph of every chunk when grad mode is on and the function captured a
    parameter that requires grad (141 MiB for a Jacobian of 0.5 MiB, measured; 5 MiB so).
    torch.func turns grad mode on inside, where it is needed.
    """

    name: ClassVar[str] = "vmap(vjp)"
    prologue: ClassVar[str] = "torch.func.vjp"
    batched: ClassVar[bool] = True
    has_plain_kernels: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        told: dict[str, Any] = {}

        def call(*inputs: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[torch.Tensor]]:
            leaves, told["spec"], aux = problem.call(*inputs)
            told["flows"] = any(isinstance(leaf, torch.Tensor) and leaf.requires_grad for leaf in leaves)
            told["leaves"] = Outputs.of(leaves, told["spec"]).leaves
            nodes = nodes_behind(leaves)
            told["nodes"] = names_of(nodes), len(nodes), numel_of(nodes)
            parts, told["aux_spec"] = tree_flatten(aux)
            told["aux"] = [_TENSOR if isinstance(part, torch.Tensor) else part for part in parts]
            return leaves, [part for part in parts if isinstance(part, torch.Tensor)]

        versions = [x._version for x in problem.inputs]
        with self._forward_mode():
            _, pull, *aux_tensors = vjp(call, *problem.inputs, has_aux=True)
        self._vjp: Any = pull
        check_unchanged(problem.inputs, versions)
        tensors = iter(aux_tensors[0])
        aux = [next(tensors) if part is _TENSOR else part for part in told["aux"]]
        self.outputs = Outputs(told["leaves"], told["spec"], tree_unflatten(aux, told["aux_spec"]), *told["nodes"])
        self.flows: bool = told["flows"]

    @property
    def is_sure(self) -> bool:
        """Tell whether all of its backward passes are known to be right in batches."""
        return are_sure(self.outputs, "backward")

    def many(self, seeds: Tensors) -> Tensors:
        """Return rows, ``(k, *input.shape)`` for each input."""
        return _applied(vmap(self._vjp), seeds, self.outputs)

    def one(self, seed: Tensors) -> Tensors:
        """Return a row, like the inputs."""
        return _applied(self._vjp, seed, self.outputs)

    def recordable(self, seed: Tensors) -> Tensors:
        """Do what ``one`` does, with attention and recurrent layers taken apart."""
        return _plainly(self, seed)

    def close(self) -> None:
        """Let go of the graph."""
        self._vjp = None

    def _forward_mode(self) -> AbstractContextManager[Any]:
        """Return the grad mode of the forward pass."""
        return nullcontext()


class VmapVjpWithGrad(VmapVjp):
    """Do the same with grad mode on in the forward pass.

    A kernel may ask for grad mode itself, to save for its backward pass what it leaves out
    otherwise (oneDNN's LSTM in float32).
    """

    name: ClassVar[str] = "vmap(vjp), grad mode on"

    def _forward_mode(self) -> AbstractContextManager[Any]:
        return torch.enable_grad()


class VmapVjpPlain(VmapVjp):
    """Do the same with attention and recurrent layers taken apart, whose fused backward passes have no batching rules.

    Where a linear program is to be made, its step is recorded from this.
    """

    name: ClassVar[str] = "vmap(vjp), plain kernels"
    has_plain_kernels: ClassVar[bool] = True

    def _forward_mode(self) -> AbstractContextManager[Any]:
        return plain_kernels()


def _plainly(rung: VmapVjp | BatchedGrad, seed: Tensors) -> Tensors:
    """Send a seed back with attention and recurrent layers taken apart: through another graph, if they are not."""
    if rung.has_plain_kernels or not are_fused(rung.outputs.nodes):
        return rung.one(seed)
    plain = VmapVjpPlain(rung.problem)
    try:
        return plain.one(seed)
    finally:
        plain.close()


class BatchedGrad:
    """Send the seeds of a chunk back at once, by ``torch.autograd.grad`` through a plain graph.

    It takes what torch.func does not: custom functions of the old kind, checkpoints, hooks on
    saved tensors, writes to captured tensors (BatchNorm in train mode). Operations that it has no
    rule for run row by row (``gelu_backward``: 6-60 times slower than ``vmap``, measured).
    """

    name: ClassVar[str] = "batched autograd.grad"
    prologue: ClassVar[str] = "a plain graph"
    batched: ClassVar[bool] = True
    has_plain_kernels: ClassVar[bool] = False

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        versions = [x._version for x in problem.inputs]
        self._keeps_graph = torch.is_grad_enabled()
        with torch.enable_grad(), self._kernels():
            self._inputs: Tensors = tuple(_differentiable(x) for x in problem.inputs)
            self._leaves, spec, aux = problem.call(*self._inputs)
        check_unchanged(problem.inputs, versions)
        aux = tree_map(lambda part: part.detach() if isinstance(part, torch.Tensor) else part, aux)
        nodes = nodes_behind(self._leaves)
        self.flows = any(getattr(node, "variable", None) is x for node in nodes for x in self._inputs)
        outputs = Outputs.of(self._leaves, spec, aux)
        self.outputs = replace(outputs, nodes=names_of(nodes), n_nodes=len(nodes), node_numel=numel_of(nodes))

    @property
    def is_sure(self) -> bool:
        """Tell that its batches must be compared."""
        return False

    def many(self, seeds: Tensors) -> Tensors:
        """Return rows, ``(k, *input.shape)`` for each input."""
        return self._pull_back(seeds, batched=True)

    def one(self, seed: Tensors) -> Tensors:
        """Return a row, like the inputs."""
        return self._pull_back(seed, batched=False)

    def recordable(self, seed: Tensors) -> Tensors:
        """Do what ``one`` does, with attention and recurrent layers taken apart."""
        return _plainly(self, seed)

    @property
    def autograd(self) -> Autograd | None:
        """Return the graph that :meth:`recordable` sends seeds through; ``None`` if that is another one."""
        is_other = not self.has_plain_kernels and are_fused(self.outputs.nodes)
        return None if is_other else Autograd(self._leaves, self._inputs)

    def close(self) -> None:
        """Let go of the graph."""
        self._leaves = self._inputs = ()

    def _kernels(self) -> AbstractContextManager[Any]:
        """Return the choice of kernels."""
        return nullcontext()

    def _pull_back(self, seeds: Tensors, *, batched: bool) -> Tensors:
        """Send seeds back through the graph; what no output depends on gets zeros."""
        in_grad_mode = self._keeps_graph or needs_grad_mode(self.outputs)
        rows = pulled_back(self._leaves, self._inputs, seeds, batched=batched, create_graph=in_grad_mode)
        return rows if self._keeps_graph or not in_grad_mode else _detached(rows)


class VmapGrad(BatchedGrad):
    """Send the seeds of a chunk back at once, by ``vmap`` of ``torch.autograd.grad`` through a plain graph.

    The forward pass has no transform of torch.func around it, which makes small functions 0.3-0.9 ms quicker; but where
    captured parameters require grad, it keeps what their gradients would need as well.
    """

    name: ClassVar[str] = "vmap(grad)"

    @property
    def is_sure(self) -> bool:
        """Tell whether all of its backward passes are known to be right in batches."""
        return are_sure(self.outputs, "backward")

    def many(self, seeds: Tensors) -> Tensors:
        """Return rows, ``(k, *input.shape)`` for each input."""
        return at_once(lambda *seed: self._pull_back(seed, batched=False), seeds)


class VmapGradPlain(VmapGrad):
    """Do the same with attention and recurrent layers taken apart, as :class:`VmapVjpPlain` does."""

    name: ClassVar[str] = "vmap(grad), plain kernels"
    has_plain_kernels: ClassVar[bool] = True

    def _kernels(self) -> AbstractContextManager[Any]:
        return plain_kernels()


class RowByRow(BatchedGrad):
    """Send one seed after the other back: nothing is batched, so NumPy may be in the backward pass."""

    name: ClassVar[str] = "autograd.grad, row by row"
    batched: ClassVar[bool] = False


def _applied(vjp: Callable[[Tensors], Tensors], seeds: Tensors, outputs: Outputs) -> Tensors:
    """Send seeds back by a vjp of torch.func, whose backward pass runs in the grad mode of its caller."""
    if torch.is_grad_enabled() or not needs_grad_mode(outputs):
        return vjp(seeds)
    with torch.enable_grad():
        return _detached(vjp(seeds))


def _detached(rows: Tensors) -> Tensors:
    """Return rows without their graph."""
    return tuple(row.detach() for row in rows)


def _differentiable(x: torch.Tensor) -> torch.Tensor:
    """Return an input to differentiate by; one that requires grad itself stays in its graph."""
    return x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
