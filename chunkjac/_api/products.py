"""What users call to multiply a Jacobian, or its transpose, by vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from chunkjac._api.vectors import moved_along, read_vectors, scales_of, weighted
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._executor import run_job
from chunkjac._memory import OverBudget
from chunkjac._planner import Options, Plan, check_options, job_of, over_budget
from chunkjac._problem import LeftAsFound, Outputs, Problem
from chunkjac._sinks import sum_dtype

if TYPE_CHECKING:
    from typing_extensions import Unpack


def matvec(func: Callable[..., Any], *args: Any, **options: Unpack[Options]) -> Any:
    """Return ``J v`` for one vector or many, in chunks; the Jacobian is never held.

    Args:
        func: As for :func:`jacobian`.
        *args: Its arguments, and last the vectors: a tree like the inputs, each tensor like its input for one
            vector, or with a dimension in front for many.
        **options: As for :func:`gram`.

    Returns:
        The products in a tree like the outputs, in the types of Jacobians. With ``return_report`` a tuple: products,
        report.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does.

    Shapes:
        ``(*output.shape)`` for one vector; ``(k, *output.shape)`` for ``(k, *input.shape)``.

    Memory:
        At most ``max_memory``, the products included.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.matvec(lambda x: x**2, torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([2., 4.])
    """
    check_options("matvec", options)
    check_along_vectors("matvec", options)
    *point, vectors = _with_vectors("matvec", args)
    return Products(func, tuple(point), options).forth(vectors)


def rmatvec(func: Callable[..., Any], *args: Any, **options: Unpack[Options]) -> Any:
    """Return ``u J``, which is ``J^T u``, for one vector or many, in chunks; the Jacobian is never held.

    Args:
        func: As for :func:`jacobian`.
        *args: Its arguments, and last the vectors: a tree like the outputs, each tensor like its output for one
            vector, or with a dimension in front for many.
        **options: As for :func:`gram`.

    Returns:
        The products in a tree like the inputs, in the types of Jacobians. With ``return_report`` a tuple: products,
        report.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does.

    Shapes:
        ``(*input.shape)`` for one vector; ``(k, *input.shape)`` for ``(k, *output.shape)``.

    Memory:
        At most ``max_memory``, the products included.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.rmatvec(lambda x: x**2, torch.tensor([1.0, 2.0]), torch.eye(2))
        tensor([[2., 0.],
                [0., 4.]])
    """
    check_options("rmatvec", options)
    _check_batching("rmatvec", options)
    *point, vectors = _with_vectors("rmatvec", args)
    return Products(func, tuple(point), options).back(vectors)


def check_along_vectors(name: str, options: Options) -> None:
    """Refuse what does not hold along vectors.

    Raises:
        ArgumentError: The message names the option.
    """
    if options.get("bounds") is not None or not isinstance(options.get("step"), (int, float, type(None))):
        raise ArgumentError(f"{name} steps along vectors: step must be None or a float there, and bounds None.")
    _check_batching(name, options)


def _check_batching(name: str, options: Options) -> None:
    """Refuse batches of points: vectors are no part of the function that has a batch."""
    batching = options.get("batching", "auto")
    if batching not in ("auto", "vmap", "loop"):
        raise ArgumentError(f"{name} takes batching='auto', 'vmap' or 'loop', found {batching!r}; give one of them.")


def _with_vectors(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a call without vectors."""
    if len(args) < 2:
        raise ArgumentTypeError(f"{name} needs func's arguments, and the vectors last; found {len(args)} arguments.")
    return args


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
        rest = dict(options)
        argnums: Any = rest.pop("argnums", 0)
        self.problem = Problem.of(func, args, argnums, has_aux=False)
        self._args = args
        self._options: Any = rest
        self._plans: dict[tuple[str, Any], Plan] | None = {} if is_kept else None

    def outputs(self) -> Outputs:
        """Evaluate the function once, under the budget; return what that tells.

        Raises:
            BudgetError: An evaluation does not fit.
        """
        job = job_of(self.problem.func, self._args, argnums=self.problem.argnums, **self._options)
        try:
            with LeftAsFound(job.problem) as witness, job.tracker(), witness:
                return job.problem.evaluate()[1]
        except OverBudget as error:
            failure = str(error)
        raise over_budget(job, failure)

    def forth(self, vectors: Any) -> Any:
        """Return ``J v``, like the outputs."""
        problem = self.problem
        leaves, count = read_vectors(vectors, problem.inputs, problem.spec, "inputs")
        t = torch.zeros(() if count is None else count, dtype=sum_dtype(problem.leaves), device=problem.device)
        has_steps = self._options.get("step") is None and self._options.get("mode") not in ("forward", "reverse")
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
        job = job_of(func, args, argnums=argnums, **self._options).beside(made_bytes)
        if self._plans is None and by_steps:
            found = run_job(job).deliver(job)
            return found if job.return_report else (found, None)
        wanted = job.return_report
        job = replace(job, return_report=True)
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
