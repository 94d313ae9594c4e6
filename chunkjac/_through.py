"""``J(x) J(x2)^T w`` without a Jacobian: back through the function at one point, forth through it at the other.

It is linear in ``w``, so that its difference quotients are exact whatever the step. Its columns are those of the Gram
matrix, and each takes one pass back and one forth, however little memory there is.

Source:
    Novak, Sohl-Dickstein, Schoenholz, *Fast Finite Width Neural Tangent Kernel*, 2022: NTK-vector products.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from chunkjac._backoff import reclaim
from chunkjac._calls import Options, job_of
from chunkjac._job import Job
from chunkjac._plan import Report
from chunkjac._problem import Problem
from chunkjac._restoring import left_as_found
from chunkjac._run import run_job
from chunkjac._sinks import mirrored

# Rounding alone makes a smaller difference, relative to the norm of the matrix.
_TOLERANCE_EXPONENT = 0.4


def column_by_column(
    func: Callable[..., Any], args: tuple[Any, ...], x2: Any, shape: torch.Size, dtype: torch.dtype, options: Options
) -> Any:
    """Return ``J(x) J(x2)^T`` as :func:`chunkjac.gram` does; ``None`` if the function has no way back and forth.

    Back and forth take different derivative formulas, so they are compared: for random ``v`` and ``w``, the number
    ``v J(x) J(x2)^T w`` is the product of ``v J(x)`` with ``w J(x2)``, which take passes back alone.

    Args:
        func: The function.
        args: The point ``x``.
        x2: The other, as the user gave it; ``None`` for the same.
        shape: The shape of the matrix.
        dtype: Its type.
        options: The user's options.
    """
    argnums = options.get("argnums", 0)
    here = Problem.of(func, args, argnums, has_aux=False)
    others = args if x2 is None else (x2,) if len(args) == 1 else x2
    there = Problem.of(func, others, argnums, has_aux=False)
    like = torch.zeros(shape[1], dtype=dtype, device=here.device)
    job = _job(_through(here, there), like, options)
    try:
        with left_as_found(here):
            result = run_job(job)
            matrix: torch.Tensor = result.jacobian
            is_right = _agrees(matrix, here, there, job)
        if is_right:
            if x2 is None:
                mirrored(matrix)
            return replace(result, report=_told(result.report)).deliver(job)
    except Exception:
        pass  # no forward derivative, no batching rule, no room; rows alone may do, or tell what is wrong
    reclaim(here.device)
    return None


def _through(here: Problem, there: Problem) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return ``w -> J(here) J(there)^T w`` for flat ``w``."""

    def product(weights: torch.Tensor) -> torch.Tensor:
        _, pushed, *_ = torch.func.jvp(here.flat, here.inputs, _back(there, weights))
        return torch.cat([values.reshape(-1).to(weights.dtype) for values in pushed])

    return product


def _back(problem: Problem, weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return ``J^T w`` for flat ``w``."""
    outputs, pull, *_ = torch.func.vjp(problem.flat, *problem.inputs)
    parts = weights.split([y.numel() for y in outputs])
    rows: tuple[torch.Tensor, ...] = pull(tuple(part.to(y.dtype).view(y.shape) for part, y in zip(parts, outputs)))
    return rows


def _job(
    product: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, options: Options, batching: str = "vmap"
) -> Job:
    """Return the job of a linear function's columns: its values at unit vectors, less that at zero."""
    return job_of(
        product,
        (at,),
        mode="finite-difference",
        scheme="forward",
        step=1.0,
        batching=batching,
        max_memory=options.get("max_memory"),
        chunk_size=options.get("chunk_size"),
        progress=options.get("progress"),
        return_report=options.get("return_report", False),
    )


def _agrees(matrix: torch.Tensor, here: Problem, there: Problem, job: Job) -> bool:
    """Tell whether a product with two random vectors is what passes back give, in the room beside a job's result."""
    if not matrix.numel():
        return True
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, generator=generator, dtype=torch.float64).to(matrix) for n in matrix.shape)

    def number(t: torch.Tensor) -> torch.Tensor:
        pairs = zip(_back(here, t * left), _back(there, right))
        return torch.stack([torch.dot(v.reshape(-1), w.reshape(-1)).to(t.dtype) for v, w in pairs]).sum()

    alone = _job(number, left.new_zeros(()), {"progress": False}, batching="loop")
    budget = replace(job.budget, n_bytes=job.budget.n_bytes - matrix.nbytes)
    expected = run_job(replace(alone, budget=budget)).jacobian
    tolerance = torch.finfo(matrix.dtype).eps ** _TOLERANCE_EXPONENT * torch.linalg.matrix_norm(matrix)
    return bool((left @ matrix @ right - expected).abs() <= tolerance)


def _told(report: Report | None) -> Report | None:
    """Return a report in the words of what was done."""
    if report is None:
        return None
    why = "one pass back and one forth makes a column: rows would be computed several times"
    reasons = (why, *report.plan.reasons[1:])
    plan = replace(report.plan, mode="reverse", rung="vmap(jvp(vjp))", reasons=reasons)
    return replace(report, plan=plan, estimated_error=None)
