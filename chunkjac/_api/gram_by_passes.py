"""A Gram matrix column by column: back at one point, forth at the other.

``J(x) J(x2)^T w`` is linear in ``w``, so that its difference quotients are exact whatever the step; so is ``J^T J w``,
forth and back. The columns are those of the Gram matrix, and each takes two passes, however little memory there is.

Source:
    Novak, Sohl-Dickstein, Schoenholz, *Fast Finite Width Neural Tangent Kernel*, 2022: NTK-vector products.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.func import jvp, vjp

from chunkjac._executor import Result, run_job
from chunkjac._memory import are_limited, first_line, is_out_of_memory, reclaim
from chunkjac._planner import Job, Options, Report, job_of
from chunkjac._problem import LeftAsFound, Problem, ZeroProducts
from chunkjac._sinks import mirrored
from chunkjac._tensors import Tensors

Pass = Callable[[torch.Tensor], Tensors]

# Rounding alone makes a smaller difference, relative to the norm of the matrix whose rows have norm 1.
_TOLERANCE_EXPONENT = 0.4

# Rows of zeros are looked at as if they were so many times smaller than the others: a formula may have left them out.
_DOUBT = 1e4


def column_by_column(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    others: tuple[Any, ...] | None,
    side: str,
    options: Options,
    products: torch.Tensor,
) -> Result | str:
    """Return the result of :func:`chunkjac.gram`; why not, if the function has no way back and forth.

    Back and forth take different derivative formulas, so they are compared: for random ``v`` and ``w``, the number
    ``v J(x) J(x2)^T w`` is the product of ``v J(x)`` with ``w J(x2)``, which take passes back alone; and
    ``v J^T J w`` that of ``J v`` with ``J w``, which take passes forth.

    Args:
        func: The function.
        args: The point ``x``.
        others: The other, like the first; ``None`` for the same.
        side: ``"output"`` for ``J(x) J(x2)^T``, ``"input"`` for ``J^T J``.
        options: The user's options.
        products: A matrix like the result, without values.
    """
    here = Problem.of(func, args, options.argnums, has_aux=False)
    there = Problem.of(func, args if others is None else others, options.argnums, has_aux=False)
    like = torch.zeros(products.shape[1], dtype=products.dtype, device=here.device)
    first, second = (partial(_back, there), partial(_forth, here))
    if side == "input":
        first, second = second, first
    job = _job(lambda w: _flat(second(first(w)), w), like, options).beside(like.nbytes)
    try:
        with LeftAsFound(here):
            result = run_job(job)
            matrix: torch.Tensor = result.jacobian
            is_right = _agrees(matrix, partial(first.func, here), first, job)
        if is_right:
            if others is None:
                mirrored(matrix)
            return replace(result, report=_told(result.report, side))
        why, ran_out = "back and forth differ", False
    except Exception as error:  # rows alone may do, or tell what is wrong
        why, ran_out = first_line(error), is_out_of_memory(error)  # no forward derivative, no batching rule, no room
    reclaim(here.device, ran_out=ran_out)
    return f"not by one pass back and one forth: {why}"


def _back(problem: Problem, weights: torch.Tensor | Tensors) -> Tensors:
    """Return ``J^T w``, leaf by leaf; ``w`` may be flat."""
    outputs, pull, *_ = vjp(problem.flat, *problem.inputs)
    rows: Tensors = pull(_like(outputs, weights))
    return rows


def _forth(problem: Problem, vectors: torch.Tensor | Tensors) -> Tensors:
    """Return ``J v``, leaf by leaf; ``v`` may be flat."""
    with ZeroProducts(worth_bytes=0) if are_limited() else nullcontext():  # what they take counts
        _, pushed, *_ = jvp(problem.flat, problem.inputs, _like(problem.inputs, vectors))
    columns: Tensors = pushed
    return columns


def _like(leaves: Tensors, values: torch.Tensor | Tensors) -> Tensors:
    """Return flat values as leaves."""
    if isinstance(values, tuple):
        return values
    parts = values.split([leaf.numel() for leaf in leaves])
    return tuple(part.to(leaf.dtype).view(leaf.shape) for part, leaf in zip(parts, leaves))


def _flat(leaves: Tensors, like: torch.Tensor) -> torch.Tensor:
    """Return leaves as one vector."""
    return torch.cat([leaf.reshape(-1).to(like.dtype) for leaf in leaves])


def _job(
    product: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor, options: Options, batching: str = "vmap"
) -> Job:
    """Return the job of a linear function's columns: its values at unit vectors, less that at zero."""
    linear = Options(
        mode="finite-difference",
        scheme="forward",
        step=1.0,
        batching=batching,
        max_memory=options.max_memory,
        chunk_size=options.chunk_size,
        progress=options.progress,
        return_report=options.return_report,
    )
    return job_of(product, (at,), linear)


def _agrees(matrix: torch.Tensor, on_left: Pass, on_right: Pass, job: Job) -> bool:
    """Tell whether a product with two random vectors is what passes of one kind give.

    Args:
        matrix: What is checked.
        on_left: The pass for the vector on the left.
        on_right: That for the other.
        job: What has made the matrix: the check has the room beside that.
    """
    if not matrix.numel():
        return True
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(n, generator=generator, dtype=torch.float64).to(matrix) for n in matrix.shape)
    sizes = torch.linalg.vector_norm(matrix, dim=1)
    least = sizes[sizes > 0].amin() if bool((sizes > 0).any()) else 1.0
    left /= sizes.masked_fill_(sizes == 0, least / _DOUBT)  # all rows count alike, those of zeros more

    def number(t: torch.Tensor) -> torch.Tensor:
        pairs = zip(on_left(t * left), on_right(right))
        return torch.stack([torch.dot(v.reshape(-1), w.reshape(-1)).to(t.dtype) for v, w in pairs]).sum()

    alone = _job(number, left.new_zeros(()), Options(progress=False), batching="loop")
    beside_bytes = matrix.nbytes + 2 * left.nbytes + right.nbytes
    expected = run_job(replace(alone, budget=job.budget).beside(beside_bytes)).jacobian
    tolerance = torch.finfo(matrix.dtype).eps ** _TOLERANCE_EXPONENT * len(matrix) ** 0.5
    return bool((left @ matrix @ right - expected).abs() <= tolerance)


def _told(report: Report | None, side: str) -> Report | None:
    """Return a report in the words of what was done."""
    if report is None:
        return None
    why = "one pass back and one forth make a column: directions would be computed several times"
    reasons = (why, *report.plan.reasons[1:])
    mode, rung = ("reverse", "vmap(jvp(vjp))") if side == "output" else ("forward", "vmap(vjp(jvp))")
    plan = replace(report.plan, mode=mode, rung=rung, reasons=reasons)
    return replace(report, plan=plan, estimated_error=None)
