"""A Jacobian that can be differentiated again, in bounded memory.

A graph of the whole Jacobian would hold every chunk. So none is kept: the backward pass
computes one chunk at a time anew, with its graph, sends that chunk's part of the cotangent
back through it, and lets it go. It takes about the time that it would have taken with a graph
and the computation of the Jacobian once more.

Source:
    Griewank and Walther, Evaluating Derivatives, 2008, chapter 12 (recomputation instead of
    storage). A checkpoint around a chunk of ``vmap(vjp)`` is refused by torch, hence this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

from chunkjac._errors import BudgetError
from chunkjac._executor import Log, fill
from chunkjac._job import Job
from chunkjac._memory import OverBudget
from chunkjac._modes import DOUBLE_BACKWARD, Block
from chunkjac._pacer import Pacer
from chunkjac._plan import Plan
from chunkjac._restoring import left_as_found
from chunkjac._select import differentiable_mode
from chunkjac._sinks import PulledBack
from chunkjac._units import format_bytes
from chunkjac._witness import Witness

Grads = tuple[torch.Tensor | None, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Hold how the Jacobian is computed again.

    Attributes:
        job: What was asked for, with the inputs in their graphs.
        mode: The name of the mode that it was computed in.
        chunk_size: The chunk size that it was computed with.
        used: Tensors that do not require grad and take part, and their versions.
    """

    job: Job
    mode: str
    chunk_size: int
    used: tuple[tuple[torch.Tensor, int], ...]

    @classmethod
    def of(cls, job: Job, plan: Plan, witness: Witness) -> Recipe:
        """Say how to do again what was done.

        What double backward gives is not differentiated: that takes third derivatives, which are
        wrong for BatchNorm in train mode (its second takes the saved mean for a constant, torch 2.13).
        """
        mode = "reverse" if plan.rung in DOUBLE_BACKWARD else plan.mode
        again = replace(job, problem=job.problem.in_its_graph(), out=())  # what it gives takes no place of its own
        used = tuple((tensor, tensor._version) for tensor in witness.read() if not tensor.is_inference())
        return cls(again, mode, plan.chunk_size, used)

    def check_unchanged(self) -> None:
        """Refuse to compute at other values, as autograd does for what it has saved."""
        if any(tensor._version != version for tensor, version in self.used):
            raise RuntimeError(
                "one of the tensors that func uses has been modified by an inplace operation since its Jacobian was "
                "computed, and the backward pass computes it again; clone the tensor before it is changed."
            )


def with_graph(jacobian: Any, recipe: Recipe, captured: Sequence[torch.Tensor]) -> Any:
    """Return a Jacobian connected to the graphs of the inputs and of what the function captured.

    Args:
        jacobian: The tree of tensors.
        recipe: How to compute it again.
        captured: Tensors beside the inputs that take part and require grad.
    """
    inputs = recipe.job.problem.inputs
    sources = [x for x in inputs if x.requires_grad]
    sources += [tensor for tensor in captured if not any(tensor is x for x in inputs)]
    if not sources:
        return jacobian
    leaves, spec = tree_flatten(jacobian)
    connected: Any = _Rebuilt.apply(recipe, leaves, *sources)
    return tree_unflatten(list(connected), spec)


class _Rebuilt(torch.autograd.Function):
    """Stand in the graph for the computation of a Jacobian."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, leaves: list[torch.Tensor], *sources: torch.Tensor) -> Block:
        """Hand on what is computed already."""
        ctx.recipe = recipe
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*sources)  # so that changes to them are noticed
        connected = tuple(leaves)
        leaves.clear()
        return connected

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor | None) -> tuple[Any, ...]:
        """Send a cotangent of the Jacobian back to the sources."""
        ctx.recipe.check_unchanged()
        needed = ctx.needs_input_grad[2:]
        sources = tuple(source for source, is_needed in zip(ctx.saved_tensors, needed) if is_needed)
        pull_back = _pull_back_with_graph if torch.is_grad_enabled() else _pull_back
        grads = iter(pull_back(ctx.recipe, sources, cotangents, cut=ctx.saved_tensors))
        return (None, None, *(next(grads) if is_needed else None for is_needed in needed))


Cotangents = Sequence[torch.Tensor | None]


def _pull_back(recipe: Recipe, sources: Block, cotangents: Cotangents, *, cut: Block) -> Grads:
    """Send a cotangent back, a chunk at a time, within the budget."""
    job = recipe.job
    tracker = job.tracker()
    try:
        with left_as_found(job.problem) as witness, _cut_at(cut):
            with tracker, witness:
                mode = differentiable_mode(job.problem, recipe.mode)
                sink = PulledBack(mode, cotangents, sources)
            pacer = Pacer(job.terms(mode, tracker))
            fill(sink, mode, pacer, tracker, Log(), advance=lambda _: None)
            return sink.grads
    except OverBudget as error:
        failure = str(error)
    raise BudgetError(
        f"the backward pass of the Jacobian does not fit in {format_bytes(job.budget.n_bytes)} ({job.budget.source}), "
        f"not even one direction with its graph: {failure}. Give more max_memory, or a smaller function.",
        needed_bytes=None,
        needed_bytes_by_mode={},
        budget_bytes=job.budget.n_bytes,
    )


def _pull_back_with_graph(recipe: Recipe, sources: Block, cotangents: Cotangents, *, cut: Block) -> Grads:
    """Send a cotangent back so that the result can be differentiated too: that keeps every graph."""
    with left_as_found(recipe.job.problem) as witness, _cut_at(cut):
        with witness:
            mode = differentiable_mode(recipe.job.problem, recipe.mode)
        sink = PulledBack(mode, cotangents, sources, keeps_graph=True)
        total = sink.n_directions
        for start in range(0, total, recipe.chunk_size):
            chunk = slice(start, min(start + recipe.chunk_size, total))
            sink.write(chunk, mode.block(chunk))
            mode.release()  # the graph holds the seeds: the next chunk gets others
        return sink.grads


@contextmanager
def _cut_at(sources: Sequence[torch.Tensor]) -> Iterator[None]:
    """Let no gradient go on from a source to what it was computed from.

    What comes to a source is handed to autograd, which takes it further. If it went further here as
    well, what several sources depend on (a parameter that is captured, and a captured function of
    it) would get it twice. The engine reads a source's gradient before these hooks run.
    """
    places: dict[torch.autograd.graph.Node, set[int]] = {}
    for source in sources:
        if source.grad_fn is not None:
            places.setdefault(source.grad_fn, set()).add(source.output_nr)
    handles = [node.register_prehook(partial(_without, numbers)) for node, numbers in places.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _without(numbers: set[int], grads: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    """Leave some gradients out."""
    return tuple(None if number in numbers else grad for number, grad in enumerate(grads))
