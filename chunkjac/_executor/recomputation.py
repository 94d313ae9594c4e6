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

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from chunkjac._chunker import Pacer
from chunkjac._errors import FunctionError
from chunkjac._executor.batched_cotangents import sent_back
from chunkjac._executor.loop import Log, filled
from chunkjac._executor.recipe import Recipe
from chunkjac._executor.result import Result
from chunkjac._memory import LiveBytes, OverBudget
from chunkjac._modes import Forward, Mode, Reverse, check_twice, is_final, random_tangent
from chunkjac._planner import Job, Plan, over_budget_backwards
from chunkjac._problem import LeftAsFound, WriteWatcher, plain_kernels
from chunkjac._sinks import Cotangent, Grads, PulledBack, TensorSink
from chunkjac._tensors import Tensors

# How it is computed again: in reverse mode, also what was computed in forward mode. Forward formulas are
# wrong to differentiate for some operations (layer_norm, linalg.solve, and torch.func.jacfwd with them, torch
# 2.13), double backward for others. Fused attention has no second derivative: plain kernels have.
_WAYS: tuple[tuple[type[Reverse | Forward], Callable[[], AbstractContextManager[Any]]], ...] = (
    (Reverse, nullcontext),
    (Reverse, plain_kernels),
    (Forward, nullcontext),
)


def connected(result: Result, job: Job, watcher: WriteWatcher) -> Result:
    """Return a result that can be differentiated, if it depends on anything that requires grad.

    Args:
        result: The finished Jacobian, with its report.
        job: What was asked for.
        watcher: What has seen who takes part.

    Raises:
        FunctionError: The function has no derivatives, and is not constant.
    """
    if result.report is None:
        return result
    sources = _sources_of(job.problem.in_its_graph().inputs, watcher.captured)
    if not sources:
        return result
    if result.report.plan.mode == "finite-difference":
        _check_constant(result.jacobian, result.report.plan)
        return result
    assert isinstance(result.sink, TensorSink)  # checked where options are read
    products = result.sink.columns_along(random_tangent(job.problem.leaves))
    recipe = Recipe.of(job, result.report.plan, watcher, products, result.outputs)
    aux = recipe.aux() if job.problem.has_aux else None
    return replace(result, jacobian=_with_graph(result.jacobian, recipe, sources), aux=aux)


def _check_constant(jacobian: Any, plan: Plan) -> None:
    """Refuse a Jacobian that cannot be differentiated, unless it is constant: then it is zero everywhere."""
    if any(bool(leaf.any()) for leaf in tree_leaves(jacobian)):
        raise FunctionError(
            f"func has no derivatives ({'; '.join(plan.reasons)}), so its Jacobian cannot be "
            "differentiated; give create_graph=False, or call it under torch.no_grad()."
        )


def _sources_of(inputs: Sequence[torch.Tensor], captured: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return what a Jacobian can be differentiated by: inputs, and what else requires grad and takes part."""
    others = [tensor for tensor in captured if not any(tensor is x for x in inputs)]
    return [*(x for x in inputs if x.requires_grad), *others]


def _with_graph(jacobian: Any, recipe: Recipe, sources: Sequence[torch.Tensor]) -> Any:
    """Return a Jacobian connected to the graphs of its sources.

    Args:
        jacobian: The tree of tensors.
        recipe: How to compute it again.
        sources: What it can be differentiated by; not empty.
    """
    leaves, spec = tree_flatten(jacobian)
    connected: Any = _Rebuilt.apply(recipe, leaves, *sources)
    return tree_unflatten(list(connected), spec)


class _Rebuilt(torch.autograd.Function):
    """Stand in the graph for the computation of a Jacobian."""

    @staticmethod
    def forward(ctx: Any, recipe: Recipe, leaves: list[torch.Tensor], *sources: torch.Tensor) -> Tensors:
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
        _check_twice(ctx.recipe)
        needed = ctx.needs_input_grad[2:]
        sources = tuple(source for source, is_needed in zip(ctx.saved_tensors, needed) if is_needed)
        way = _pull_back_with_graph if torch.is_grad_enabled() else _pull_back
        pull_back = partial(way, ctx.recipe, sources, cut=ctx.saved_tensors)
        grads = iter(sent_back(pull_back, [cotangents])[0])
        return (None, None, *(next(grads) if is_needed else None for is_needed in needed))


def _check_twice(recipe: Recipe) -> None:
    """Refuse a function whose backward pass cannot be differentiated, as far as there is room to find out."""
    job = recipe.job
    problem = job.problem.with_inputs([x.detach() for x in job.problem.inputs])
    try:
        with LeftAsFound(problem) as watcher, recipe.at_its_state(), job.tracker(job.counting()), watcher:
            if job.options.verify != 0:
                check_twice(problem, recipe.outputs)
    except OverBudget:
        pass


def _pull_back(recipe: Recipe, sources: Tensors, cotangents: Sequence[Cotangent], *, cut: Tensors) -> list[Grads]:
    """Send cotangents back, a chunk at a time, within the budget."""
    job = recipe.job
    counting = job.counting()

    def compute(mode: Mode, sink: PulledBack, tracker: LiveBytes) -> None:
        pacer = Pacer(job.limits(mode, tracker, counting), chunks=counting.chunks)
        for _ in filled(sink, mode, pacer, tracker, Log()):
            pass

    try:
        return _in_any_way(recipe, cotangents, sources, cut, compute, keeps_graph=False)
    except OverBudget as error:
        failure = str(error)
    raise over_budget_backwards(job, failure)


def _pull_back_with_graph(
    recipe: Recipe, sources: Tensors, cotangents: Sequence[Cotangent], *, cut: Tensors
) -> list[Grads]:
    """Send cotangents back so that the result can be differentiated too: that keeps every graph."""

    def compute(mode: Mode, sink: PulledBack, _: LiveBytes) -> None:
        for start in range(0, sink.n_directions, recipe.chunk_size):
            chunk = slice(start, min(start + recipe.chunk_size, sink.n_directions))
            sink.write(chunk, mode.block(chunk))
            mode.release()  # the graph holds the seeds: the next chunk gets others

    return _in_any_way(recipe, cotangents, sources, cut, compute, keeps_graph=True)


def _in_any_way(
    recipe: Recipe,
    cotangents: Sequence[Cotangent],
    sources: Tensors,
    cut: Tensors,
    compute: Callable[[Mode, PulledBack, LiveBytes], None],
    *,
    keeps_graph: bool,
) -> list[Grads]:
    """Compute in the first way that can."""
    problem = recipe.job.problem
    for number, (mode_of, kernels) in enumerate(_WAYS):
        tracker = recipe.job.tracker(recipe.job.counting())
        try:
            with LeftAsFound(problem) as watcher, _cut_at(cut), recipe.at_its_state(), kernels():
                with tracker, watcher:
                    mode = mode_of(problem, keeps_graph=True)
                    sink = PulledBack(mode, cotangents, sources, keeps_graph=keeps_graph)
                compute(mode, sink, tracker)
        except Exception as error:
            if is_final(error) or number == len(_WAYS) - 1:
                raise
        else:
            recipe.check_products(sink.products)
            return sink.grads
    raise AssertionError("the last way returns or raises")


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
    # The user's hooks run when autograd takes the gradient on; here they would run once more for each chunk.
    hooks = [(source._backward_hooks, dict(source._backward_hooks)) for source in sources if source._backward_hooks]
    retained = [(source, source.grad) for source in sources if source.retains_grad]
    for current, _ in hooks:
        current.clear()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for current, before in hooks:
            current.update(before)
        for source, grad in retained:
            source.grad = grad


def _without(numbers: set[int], grads: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor | None, ...]:
    """Leave some gradients out."""
    return tuple(None if number in numbers else grad for number, grad in enumerate(grads))
