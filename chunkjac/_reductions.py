"""What users call for something smaller than a Jacobian, which is never held."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chunkjac._calls import Options, check_options, job_of
from chunkjac._errors import ArgumentError, BudgetError
from chunkjac._options import check_name
from chunkjac._run import run_job
from chunkjac._sinks import Diagonal, Gram, NormsOf, Reduction
from chunkjac._two_points import at_two_points
from chunkjac._types import Norms

if TYPE_CHECKING:
    from typing_extensions import Unpack

_SIDES = ("output", "input")

# A tile takes the first of these parts of the room that leaves enough for a chunk; the last is a single row.
_TILE_SHARES = (1 / 2, 1 / 8, 0.0)


def gram(func: Callable[..., Any], *args: Any, side: str = "output", x2: Any = None, **options: Unpack[Options]) -> Any:
    """Return the products of a Jacobian's rows with one another, or of its columns.

    ``J J^T`` is the empirical neural tangent kernel if ``func`` is differentiated by its parameters; ``J^T J`` is the
    Gauss-Newton matrix of least squares.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.
        side: ``"output"`` for ``J J^T``, ``"input"`` for ``J^T J``.
        x2: Another point, for the products of the rows at ``args`` with those there: ``J(x) J(x2)^T``. It is what
            stands for the only argument, or a tuple of what stands for all. Only with ``side="output"``.
        **options: ``argnums``, ``mode``, ``scheme``, ``step``, ``batching``, ``bounds``, ``max_memory``,
            ``chunk_size``, ``randomness``, ``progress`` and ``return_report``, as for :func:`jacobian`.

    Returns:
        A matrix, in single precision at least. Outputs and inputs are numbered through their trees in order, each
        tensor in C order. With ``return_report`` a tuple: matrix, report.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does.

    Shapes:
        ``(m, m)`` for m outputs, ``(m, m2)`` with ``x2``; ``(n, n)`` for n inputs with ``side="input"``.

    Memory:
        At most ``max_memory``, the matrix included. Rows are multiplied in tiles: half of the room is taken by a tile,
        and never the whole Jacobian, unless that has less than 64 MiB. The smaller ``max_memory``, the more often rows
        are computed: ``(t + 1) / 2`` times for t tiles.

    Source:
        Jacot, Gabriel, Hongler, *Neural Tangent Kernel*, 2018.

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
    check_name("side", side, _SIDES)
    if x2 is not None:
        if side != "output":
            raise ArgumentError("x2 is for side='output', J(x) J(x2)^T; leave one of the two out.")
        if options.get("bounds") is not None:
            raise ArgumentError("bounds are for one point, found x2; leave one of the two out.")
        func, args = at_two_points(func, args, x2, options.get("argnums", 0))
    for share in _TILE_SHARES[:-1]:
        try:
            return _reduced("gram", Gram(side == "output", x2 is not None, share), func, args, options)
        except BudgetError:
            pass  # a smaller tile may leave enough for a chunk
    return _reduced("gram", Gram(side == "output", x2 is not None, _TILE_SHARES[-1]), func, args, options)


def norms(func: Callable[..., Any], *args: Any, **options: Unpack[Options]) -> Norms | Any:
    """Return the Euclidean norms of a Jacobian's rows and columns, and of the whole.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.
        **options: As for :func:`gram`.

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
    return _reduced("norms", NormsOf(), func, args, options)


def diagonal(func: Callable[..., Any], *args: Any, **options: Unpack[Options]) -> Any:
    """Return the diagonal of a Jacobian that has as many rows as columns.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.
        **options: As for :func:`gram`.

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
    return _reduced("diagonal", Diagonal(), func, args, options)


def _reduced(name: str, reduction: Reduction, func: Callable[..., Any], args: tuple[Any, ...], options: Options) -> Any:
    """Run a job whose blocks go to a reduction."""
    check_options(name, options)
    job = replace(job_of(func, args, **options), out=reduction)
    return run_job(job).deliver(job)
