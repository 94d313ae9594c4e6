"""torch.func's spelling: functions that return functions of the point."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from chunkjac._api.jacobians import jacobian
from chunkjac._api.signature import shows
from chunkjac._api.torch_likeness import Context, derivative_of
from chunkjac._arguments import read_argnums
from chunkjac._compilers import outside_of_graphs
from chunkjac._modes import Gradient
from chunkjac._planner import GivenToJacobian, read_options
from chunkjac._problem import check_callable


@shows
def jacrev(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
    _preallocate_and_copy: bool = False,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func`` in reverse mode.

    Args:
        func: As for :func:`jacobian`; positional and keyword arguments are passed on to it.
        has_aux: As for :func:`jacobian`, but ``aux`` holds tensors only, as in torch.func.
        chunk_size: Rows at a time; ``None`` plans it.
        _preallocate_and_copy: Changes nothing: the result is always allocated first. It is there
            because ``torch.func.jacrev`` has it.

    Returns:
        A function of ``func``'s arguments that returns what ``torch.func.jacrev`` would. With grad
        mode on, the Jacobian can be differentiated by inputs and captured tensors that require
        grad; the backward pass computes it anew, a chunk at a time.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.

    Shapes:
        As :func:`jacobian`: ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        As :func:`jacobian`, within the budget of the settings. Inside a transform of torch.func, and in a graph of
        ``torch.compile``, blocks are put together functionally, and no budget is kept.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.jacrev(torch.sin)(torch.zeros(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return derivative_of("jacrev", func, mode="reverse", argnums=argnums, has_aux=has_aux, chunk_size=chunk_size)


@shows
def jacfwd(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    randomness: str = "error",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func`` in forward mode.

    Args:
        func: As for :func:`jacobian`; positional and keyword arguments are passed on to it.
        has_aux: As for :func:`jacobian`, but ``aux`` holds tensors only, as in torch.func.
        chunk_size: Columns at a time; ``None`` plans it. ``torch.func.jacfwd`` has no chunks.

    Returns:
        A function of ``func``'s arguments that returns what ``torch.func.jacfwd`` would, which can
        be differentiated as that of :func:`jacrev`.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.
        FunctionError: ``func`` draws random numbers, and ``randomness`` is ``"error"``.

    Shapes:
        As :func:`jacobian`: ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        As :func:`jacrev`.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.jacfwd(torch.sin)(torch.zeros(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    options: dict[str, Any] = {"argnums": argnums, "has_aux": has_aux, "chunk_size": chunk_size}
    return derivative_of("jacfwd", func, mode="forward", randomness=randomness, **options)


@shows
def hessian(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    mode: str = "auto",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Hessian of ``func``, in chunks.

    It is the Jacobian of the gradient, which is taken in reverse mode.

    Args:
        func: As for :func:`jacobian`; its outputs are mostly scalars.
        argnums: As for :func:`jacobian`; trees of parameters as well.
        mode: How the gradient is differentiated, as for :func:`jacobian`: ``"auto"`` mostly goes back through its
            graph once more, which takes less time than ``"forward"`` (a product of the Hessian with a tangent for each
            column, as torch.func has it) and more memory.
        chunk_size: Rows (in forward mode columns) at a time; ``None`` plans it.

    Returns:
        A function of ``func``'s arguments that returns what ``torch.func.hessian`` would, which
        can be differentiated as that of :func:`jacrev`.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.

    Shapes:
        ``(*output.shape, *input.shape, *other_input.shape)`` for each output and two inputs.

    Memory:
        As :func:`jacrev`; ``torch.func.hessian`` has no chunks.

    Source:
        Pearlmutter, Fast exact multiplication by the Hessian, 1994 (forward over reverse).

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.hessian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
        tensor([[ 6.,  0.],
                [ 0., 12.]])
    """
    gradient = Gradient(func, argnums) if torch.compiler.is_compiling() else Gradient.of(func, read_argnums(argnums))
    return derivative_of("hessian", gradient, mode=mode, argnums=argnums, has_aux=False, chunk_size=chunk_size)


@outside_of_graphs("jacfd")
@shows
def jacfd(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    scheme: str = "central",
    step: Any = None,
    batching: str | int = "auto",
    bounds: Any = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func`` by finite differences.

    Args:
        func: As for :func:`jacobian`; it needs no derivatives.
        chunk_size: Columns at a time; ``None`` plans it.

    Returns:
        A function of ``func``'s arguments that returns the Jacobian in torch.func's tree.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.
        FunctionError: ``func`` gives different answers for the same input; or it cannot be evaluated as
            ``scheme`` or ``batching`` ask.

    Shapes:
        As :func:`jacobian`: ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        As :func:`jacobian`, within the budget of the settings.

    Source:
        The method of the paper JacrevFinite, in chunks; for the other schemes see ``_modes/differences/schemes.py``.

    Example:
        >>> import torch, chunkjac as cj
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> cj.jacfd(lambda x: x**2)(x).diagonal().round(decimals=6)
        tensor([2., 4.], dtype=torch.float64)
    """
    check_callable(func)
    given: dict[str, Any] = {"mode": "finite-difference", "argnums": argnums, "has_aux": has_aux}
    given |= {"scheme": scheme, "step": step, "batching": batching, "bounds": bounds, "chunk_size": chunk_size}
    with Context("jacfd"):
        options = read_options("jacfd", given, GivenToJacobian)
    given = {name: getattr(options, name) for name in given}

    @outside_of_graphs("jacfd")
    @functools.wraps(func, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def differences_at(*args: Any, **kwargs: Any) -> Any:
        called = functools.partial(func, **kwargs) if kwargs else func
        with Context("jacfd"):
            return jacobian(called, *args, **given)

    return differences_at
