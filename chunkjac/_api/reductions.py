"""What users call for something smaller than a Jacobian, which is never held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from chunkjac._api.gram_by_passes import column_by_column
from chunkjac._api.signature import shows
from chunkjac._api.two_points import are_far_apart, at_two_points, numbers_of, second_point
from chunkjac._arguments import read_name
from chunkjac._chunker import TILE_SHARES
from chunkjac._errors import ArgumentError, BudgetError
from chunkjac._executor import Result, run_job
from chunkjac._planner import GivenOnce, Job, job_of, read_options
from chunkjac._sinks import Destination, Diagonal, Gram, ManyTilesError, Norms, NormsOf

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SIDES = ("output", "input")


@shows
def gram(func: Callable[..., Any], *args: Any, side: str = "output", x2: Any = None, **given: Unpack[GivenOnce]) -> Any:
    """Return the products of a Jacobian's rows with one another, or of its columns.

    ``J J^T`` is the empirical neural tangent kernel if ``func`` is differentiated by its parameters; ``J^T J`` is the
    Gauss-Newton matrix of least squares.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.
        side: ``"output"`` for ``J J^T``, ``"input"`` for ``J^T J``.
        x2: Another point, for the products of the rows at ``args`` with those there: ``J(x) J(x2)^T``. It is what
            stands for the only argument, or a tuple of what stands for all. Only with ``side="output"``; finite
            differences need ``step`` where the points differ in size.

    Returns:
        A matrix, in single precision at least. Outputs and inputs are numbered through their trees in order, each
        tensor in C order. With ``return_report`` a tuple: matrix, report.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does.

    Shapes:
        ``(m, m)`` for m outputs, ``(m, m2)`` with ``x2``; ``(n, n)`` for n inputs with ``side="input"``.

    Memory:
        At most ``max_memory``, the matrix included. Rows are multiplied with one another where all of them take half of
        the room at most. Where they take more, a column of the matrix is made by one pass back and one
        forth, and no row is held beyond its chunk; for functions without forward derivatives rows are multiplied in
        tiles, and computed the more often the smaller ``max_memory`` is, ``(t + 1) / 2`` times for t tiles.

    Source:
        Jacot, Gabriel, Hongler, *Neural Tangent Kernel*, 2018; Novak, Sohl-Dickstein, Schoenholz, *Fast Finite Width
        Neural Tangent Kernel*, 2022.

    Example:
        >>> import torch, chunkjac as cj
        >>> x = torch.tensor([1.0, 2.0])
        >>> cj.gram(lambda x: x**2, x)
        tensor([[ 4.,  0.],
                [ 0., 16.]])
        >>> cj.gram(lambda x: x**2, x, x2=3 * x)
        tensor([[12.,  0.],
                [ 0., 48.]])
    """
    options = read_options("gram", given, GivenOnce)
    side = read_name("side", side, _SIDES)
    if x2 is not None and side != "output":
        raise ArgumentError("x2 is for side='output', J(x) J(x2)^T; leave one of the two out.")
    if x2 is not None and options.bounds is not None:
        raise ArgumentError("bounds are for one point, found x2; leave one of the two out.")
    others = None if x2 is None else second_point(args, x2, options.argnums)
    reduction = Gram(side == "output", x2 is not None)
    if others is None:
        job = job_of(func, args, options)
    else:
        both, points = at_two_points(func, args, others, options.argnums)
        options = replace(options, argnums=numbers_of(options.argnums, args))  # there are more arguments than before
        job = job_of(both, points, options)
        job = job.beside(sum(x.nbytes for x in job.problem.inputs))  # the point between was not held before
        if options.step is None:
            reduction = replace(reduction, far_apart=partial(are_far_apart, args, others, options.argnums))
    by_passes = partial(column_by_column, func, args, others, side, options)
    return _in_any_way(job, reduction, by_passes).deliver(job)


def _in_any_way(job: Job, reduction: Gram, by_passes: Callable[[torch.Tensor], Result | str]) -> Result:
    """Return what the first way gives that can; a report tells why not those before it.

    Args:
        job: What was asked for.
        reduction: What multiplies rows.
        by_passes: What makes products like a tensor without values, or says why it cannot: where nobody asked for a
            mode, and rows would be computed several times.
    """
    shares, reasons = list(TILE_SHARES), list[str]()
    if job.options.mode == "auto":
        found = _tried(job, replace(reduction, may_be_left=True))
        if isinstance(found, torch.Tensor):
            found = by_passes(found)
        else:
            del shares[0]  # that was tried now
        if isinstance(found, Result):
            return found
        reasons.append(found)
    for share in shares[:-1]:
        found = _tried(job, replace(reduction, tile_share=share))
        if isinstance(found, Result):
            return _told(found, reasons)
        reasons.append(str(found))
    return _told(run_job(replace(job, out=replace(reduction, tile_share=shares[-1]))), reasons)


def _tried(job: Job, reduction: Gram) -> Result | torch.Tensor | str:
    """Multiply rows; return why not if they do not fit, and the products without values if there may be a faster way.

    Errors are not handed on: they would hold the activations alive.
    """
    try:
        return run_job(replace(job, out=reduction))
    except ManyTilesError as error:
        return error.products
    except BudgetError:
        return f"a tile of {reduction.tile_share:.0%} of the room left too little for a chunk"


def _told(result: Result, reasons: list[str]) -> Result:
    """Return a result whose report has more reasons."""
    if result.report is None:
        return result
    plan = replace(result.report.plan, reasons=(*result.report.plan.reasons, *reasons))
    return replace(result, report=replace(result.report, plan=plan))


@shows
def norms(func: Callable[..., Any], *args: Any, **given: Unpack[GivenOnce]) -> Norms | Any:
    """Return the Euclidean norms of a Jacobian's rows and columns, and of the whole.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.

    Returns:
        :class:`chunkjac.Norms`; no square in them leaves the range of numbers. With ``return_report`` a tuple:
        norms, report.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does.

    Shapes:
        ``rows`` are like the outputs, ``columns`` like the inputs.

    Memory:
        At most ``max_memory``; the norms take ``m + n`` doubles.

    Example:
        >>> import torch, chunkjac as cj
        >>> found = cj.norms(lambda x: x.sum() * x, torch.tensor([3.0, 0.0]))
        >>> found.rows, found.columns, found.frobenius
        (tensor([6.7082, 3.0000]), tensor([6.0000, 4.2426]), tensor(7.3485))
    """
    return _run(job_of(func, args, read_options("norms", given, GivenOnce)), NormsOf())


@shows
def diagonal(func: Callable[..., Any], *args: Any, **given: Unpack[GivenOnce]) -> Any:
    """Return the diagonal of a Jacobian that has as many rows as columns.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.

    Returns:
        The derivative of each output element by the input element of the same number, in a tree like the inputs. With
        ``return_report`` a tuple: diagonal, report.

    Raises:
        FunctionError: There are more outputs than inputs, or fewer.
        ArgumentTypeError, ArgumentError, BudgetError: As :func:`jacobian` does.

    Memory:
        At most ``max_memory``; the diagonal is like the inputs.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.diagonal(lambda x: x.sum() * x, torch.tensor([1.0, 2.0]))
        tensor([4., 5.])
    """
    return _run(job_of(func, args, read_options("diagonal", given, GivenOnce)), Diagonal())


def _run(job: Job, reduction: Destination) -> Any:
    """Run a job whose blocks go to a reduction."""
    return run_job(replace(job, out=reduction)).deliver(job)
