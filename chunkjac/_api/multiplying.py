"""One Jacobian times many vectors: plans are kept from product to product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from chunkjac._api.vectors import moved_along, read_vectors, scales_of, weighted
from chunkjac._errors import ArgumentError
from chunkjac._executor import run_job
from chunkjac._memory import OverBudget
from chunkjac._planner import Options, Plan, job_of, over_budget
from chunkjac._problem import LeftAsFound, Outputs, Problem
from chunkjac._sinks import sum_dtype


class Products:
    """Multiply one Jacobian by vectors, and its transpose.

    Args:
        func: The function.
        args: The point.
        options: The user's options.
        is_kept: Whether what the first product with so many vectors finds out is kept for more of them.
    """

    def __init__(
        self, func: Callable[..., Any], args: tuple[Any, ...], options: Options, *, is_kept: bool = False
    ) -> None:
        self.problem = Problem.of(func, args, options.argnums, has_aux=False)
        self._args = args
        self._options = options
        self._plans: dict[tuple[str, Any], Plan] | None = {} if is_kept else None

    def outputs(self) -> Outputs:
        """Evaluate the function once, under the budget; return what that tells.

        Raises:
            BudgetError: An evaluation does not fit.
        """
        job = job_of(self.problem.func, self._args, replace(self._options, argnums=self.problem.argnums))
        try:
            with LeftAsFound(job.problem) as watcher, job.tracker(job.counting()), watcher:
                return job.problem.drawing(again=False).evaluate()[1]
        except OverBudget as error:
            failure = str(error)
        raise over_budget(job, failure)

    def forth(self, vectors: Any) -> Any:
        """Return ``J v``, like the outputs."""
        problem = self.problem
        leaves, count = read_vectors(vectors, problem.inputs, problem.spec, "inputs")
        t = torch.zeros(() if count is None else count, dtype=sum_dtype(problem.leaves), device=problem.device)
        has_steps = self._options.step is None and self._options.mode not in ("forward", "reverse")
        scales, suffices = scales_of(leaves, problem.inputs, t) if has_steps else (torch.ones_like(t), True)
        args = t, scales, vectors, *self._args
        made_bytes = t.nbytes + scales.nbytes
        found, report = self._run(moved_along(problem), args, 0, count, made_bytes=made_bytes, by_steps=suffices)
        products = tree_map(lambda columns: _by_vector(columns.div_(scales), count), found)
        return (products, report) if report is not None else products

    def back(self, vectors: Any) -> Any:
        """Return ``u J``, like the inputs."""
        first = next((x for x in tree_leaves(vectors) if isinstance(x, torch.Tensor)), None)
        count = None if first is None else tuple(first.shape)
        func, args = weighted(self.problem), (*self._args, vectors)
        found, report = self._run(func, args, self.problem.argnums, count)
        return (found, report) if report is not None else found

    def _run(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        argnums: Any,
        key: Any,
        *,
        made_bytes: int = 0,
        by_steps: bool = True,
    ) -> tuple[Any, Any]:
        """Compute a Jacobian; return it and its report, if that was asked for.

        Args:
            func: The function that has it.
            args: Its arguments.
            argnums: What it is differentiated by.
            key: What plans are kept by.
            made_bytes: What was made for this.
            by_steps: Whether finite differences can do it.
        """
        if self._plans is not None and (func.__name__, key) in self._plans:
            plan = self._plans[func.__name__, key]
            _check_mode(plan.mode, by_steps)
            return plan.run(*args), None
        job = job_of(func, args, replace(self._options, argnums=argnums)).beside(made_bytes)
        if self._plans is None and by_steps:
            found = run_job(job).deliver(job)
            return found if job.return_report else (found, None)
        wanted = job.return_report
        job = replace(job, return_report=True, estimates_error=wanted)
        found, report = run_job(job).deliver(job)
        _check_mode(report.plan.mode, by_steps)
        if self._plans is not None:
            self._plans[func.__name__, key] = report.plan
        return found, report if wanted else None


def _check_mode(mode: str, by_steps: bool) -> None:
    """Refuse products that finite differences have made where they could not.

    Raises:
        ArgumentError: The message says what can be done.
    """
    if mode == "finite-difference" and not by_steps:
        raise ArgumentError(
            "vectors are so small beside the inputs that no finite difference moves these; give larger ones (products "
            "are linear in them), or mode='forward' or 'reverse'."
        )


def _by_vector(columns: torch.Tensor, count: int | None) -> torch.Tensor:
    """Return products with the dimension of the vectors in front."""
    return columns if count is None else columns.movedim(-1, 0)
