"""What users call to multiply a Jacobian, or its transpose, by vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chunkjac._api.multiplying import Products
from chunkjac._api.signature import shows
from chunkjac._arguments import as_float, shown
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._planner import Given, GivenOnce, read_option, read_options

if TYPE_CHECKING:
    from typing_extensions import Unpack


@shows
def matvec(func: Callable[..., Any], *args: Any, **given: Unpack[GivenOnce]) -> Any:
    """Return ``J v`` for one vector or many, in chunks; the Jacobian is never held.

    Args:
        func: As for :func:`jacobian`.
        *args: Its arguments, and last the vectors: a tree like the inputs, each tensor like its input for one
            vector, or with a dimension in front for many.

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
    check_along_vectors("matvec", given)
    options = read_options("matvec", given, GivenOnce)
    *point, vectors = _with_vectors("matvec", args)
    return Products(func, tuple(point), options).forth(vectors)


@shows
def rmatvec(func: Callable[..., Any], *args: Any, **given: Unpack[GivenOnce]) -> Any:
    """Return ``u J``, which is ``J^T u``, for one vector or many, in chunks; the Jacobian is never held.

    Args:
        func: As for :func:`jacobian`.
        *args: Its arguments, and last the vectors: a tree like the outputs, each tensor like its output for one
            vector, or with a dimension in front for many.

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
    _check_batching("rmatvec", given)
    options = read_options("rmatvec", given, GivenOnce)
    *point, vectors = _with_vectors("rmatvec", args)
    return Products(func, tuple(point), options).back(vectors)


def check_along_vectors(name: str, given: Given) -> None:
    """Refuse what does not hold along vectors.

    Raises:
        ArgumentError: The message names the option.
    """
    step = given.get("step")
    if given.get("bounds") is not None or not (step is None or as_float(step) is not None):
        raise ArgumentError(f"{name} steps along vectors: step must be None or a float there, and bounds None.")
    _check_batching(name, given)


def _check_batching(name: str, given: Given) -> None:
    """Refuse batches of points: vectors are no part of the function that has a batch."""
    batching = read_option("batching", given.get("batching", "auto"))
    if batching not in ("auto", "vmap", "loop"):
        raise ArgumentError(
            f"{name} takes batching='auto', 'vmap' or 'loop', found {shown(batching)}; give one of them."
        )


def _with_vectors(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuse a call without vectors."""
    if len(args) < 2:
        raise ArgumentTypeError(f"{name} needs func's arguments, and the vectors last; found {len(args)} arguments.")
    return args
