"""What users call to give Jacobians to SciPy's solvers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_flatten, tree_leaves

from chunkjac._api.multiplying import Products
from chunkjac._api.products import check_along_vectors
from chunkjac._api.signature import shows
from chunkjac._arguments import read_bool, read_int, shown
from chunkjac._compilers import outside_of_graphs
from chunkjac._errors import ArgumentError
from chunkjac._executor import run_job
from chunkjac._planner import Given, GivenOnce, Options, Plan, job_of, read_options
from chunkjac._problem import check_callable, looks_like
from chunkjac._sinks import Block
from chunkjac._tensors import rows_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from chunkjac._api.linear_operator import JacobianOperator


@shows
def operator(func: Callable[..., Any], *args: Any, **given: Unpack[Given]) -> JacobianOperator:
    """Return a Jacobian as a ``scipy.sparse.linalg.LinearOperator``, which is never held.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.

    Returns:
        The operator, for ``A @ v``, ``A.T @ u``, and what takes such operators (``svds``, ``lsmr``, ``gmres``).
        Outputs and inputs are numbered through their trees in order. What the first product finds
        out is kept for the next; each evaluates ``func``.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError: As :func:`jacobian` does; BudgetError at a product.

    Shapes:
        ``(m, n)`` for m outputs and n inputs.

    Memory:
        At most ``max_memory`` for each product, on the device of the inputs, beside SciPy's arrays as tensors.

    Example:
        >>> import torch, chunkjac as cj
        >>> A = cj.operator(lambda x: x**2, torch.tensor([1.0, 2.0]))
        >>> A.shape, A @ [1.0, 1.0], A.T @ [1.0, 0.0]
        ((2, 2), array([2., 4.], dtype=float32), array([2., 0.], dtype=float32))
    """
    _check_scipy("operator")
    options = _read_along_vectors("operator", given)
    from chunkjac._api.linear_operator import JacobianOperator

    return JacobianOperator(Products(func, args, options, is_kept=True))


@shows
def svdvals(func: Callable[..., Any], *args: Any, k: int = 6, **given: Unpack[Given]) -> torch.Tensor:
    """Return the largest singular values of a Jacobian, which is never held.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.
        k: How many of them.

    Returns:
        The values on the host, the largest first. Those that are small beside the largest are less exact: errors are
        ``eps`` times the largest squared, divided by the value.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does; FunctionError also
            where the Jacobian has elements that are not finite.

    Shapes:
        ``(k,)``.

    Memory:
        At most ``max_memory`` for each product; the Jacobian is held beside it if ``k`` is its smaller side.

    Source:
        Lehoucq, Sorensen, Yang, *ARPACK Users' Guide*, 1998, through ``scipy.sparse.linalg.svds``. All values at once
        are LAPACK's, of a Jacobian that is held.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.svdvals(lambda x: x**2, torch.tensor([1.0, 3.0, 2.0]), k=2)
        tensor([6., 4.])
    """
    _check_scipy("svdvals")
    options = _read_along_vectors("svdvals", given)
    from chunkjac._api.linear_operator import JacobianOperator, largest_singular_values

    k = read_int("k", k)
    view = JacobianOperator(Products(func, args, options, is_kept=True))
    least = min(view.shape)
    if not 0 < k <= least:
        raise ArgumentError(
            f"k must be a number from 1 to {least}, the smaller side of the Jacobian, found {shown(k)}."
        )
    return largest_singular_values(view, k)


@shows
def scipy_jac(func: Callable[..., Any], *, sparse: bool = False, **given: Unpack[Given]) -> Callable[..., Any]:
    """Return a function that gives the Jacobian of ``func`` to SciPy: NumPy in, NumPy or a sparse array out.

    ``least_squares``, ``root`` and ``minimize`` take it as ``jac=scipy_jac(func)``; ``solve_ivp``, whose function is
    ``func(t, y)``, as ``jac=scipy_jac(func, argnums=1)``.

    Args:
        func: As for :func:`jacobian`; NumPy arrays come as tensors, what else there is as it is.
        sparse: Whether to leave zeros out, and return a ``scipy.sparse.csc_array``.

    Returns:
        A function of the arguments of ``func``. What its first call finds out is kept, as long as shapes and types
        stay.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.

    Shapes:
        ``(*output.shape, *input.shape)``; ``(m, n)`` if sparse.

    Memory:
        At most ``max_memory``; elements of a sparse result do not count.

    Example:
        >>> import torch, chunkjac as cj
        >>> from scipy.optimize import root
        >>> func = lambda x: torch.stack([x[0] + x[1] - 3, x[0] * x[1] - 2])
        >>> root(lambda x: func(torch.from_numpy(x)).numpy(), [0.0, 5.0], jac=cj.scipy_jac(func)).x
        array([1., 2.])
    """
    _check_scipy("scipy_jac")
    options = _read_without_report("scipy_jac", given)
    check_callable(func)
    sparse = read_bool("sparse", sparse)
    return _ScipyJacobian(func, sparse, options)


class _ScipyJacobian:
    """Compute the Jacobian at points that are NumPy arrays; what the first call finds out is kept for all like it."""

    def __init__(self, func: Callable[..., Any], sparse: bool, options: Options) -> None:
        self._func = func
        self._sparse = sparse
        self._options = options
        self._key: Any = None
        self._plan: Plan | None = None

    @outside_of_graphs("scipy_jac")
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the Jacobian at a point; SciPy hands ``args`` and ``kwargs`` on."""
        point = tuple(_as_tensor(arg) for arg in args)
        key = (tuple(_looks_like(arg) for arg in point), kwargs and object())  # what kwargs are is not looked at
        collected = _Collected() if self._sparse else None
        if self._plan is None or key != self._key:
            func = functools.partial(self._func, **kwargs) if kwargs else self._func
            job = job_of(func, point, replace(self._options, out=collected, return_report=True))
            found, report = run_job(replace(job, estimates_error=False)).deliver(job)
            self._key, self._plan = key, report.plan
        else:
            found = self._plan.run(*point, out=collected)
        return _dense(found) if collected is None else collected.array(self._plan.n_outputs, self._plan.n_inputs)


def _dense(jacobian: Any) -> Any:
    """Return a Jacobian as an array.

    Raises:
        ArgumentError: There are several.
    """
    found = tree_leaves(jacobian)
    if len(found) > 1:
        raise ArgumentError("func must take one array and return one for SciPy; choose the array with argnums.")
    return found[0].cpu().numpy()


class _Collected:
    """Keep the elements of blocks that are not zero."""

    def __init__(self) -> None:
        self._parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self._by_rows = True

    def __call__(self, block: Block) -> None:
        """Take what is not zero in a block."""
        leaves = [rows_of(values) for values in tree_leaves(block.values)]
        rows = leaves[0] if len(leaves) == 1 else torch.cat(leaves, 1)
        along, across = rows.nonzero(as_tuple=True)
        self._by_rows = block.axis == "output"
        self._parts.append((rows[along, across].cpu(), along.cpu() + block.slice.start, across.cpu()))

    def array(self, m: int, n: int) -> Any:
        """Return the sparse array."""
        from scipy.sparse import coo_array, csc_array

        if not self._parts:
            return csc_array((m, n))
        values, along, across = (torch.cat(parts).numpy() for parts in zip(*self._parts))
        places = (along, across) if self._by_rows else (across, along)
        return coo_array((values, places), (m, n)).tocsc()


def _as_tensor(value: Any) -> Any:
    """Return an array as a tensor with its own memory, and a number of NumPy's as Python's."""
    import numpy as np

    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        return value
    return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("=")))


def _looks_like(value: Any) -> Any:
    """Return what a plan depends on."""
    leaves, spec = tree_flatten(value)
    return str(spec), tuple(looks_like(leaf) for leaf in leaves)


def _check_scipy(name: str) -> None:
    """Refuse a call where SciPy is missing."""
    if find_spec("scipy") is None:
        raise ArgumentError(f"{name} needs SciPy; install it with pip install 'chunkjac[scipy]'.")


def _read_without_report(name: str, given: Given) -> Options:
    """Read options, and refuse a report of many runs."""
    options = read_options(name, given, GivenOnce)
    if options.return_report:
        raise ArgumentError(f"{name} runs many times and has no report; leave return_report out.")
    return options


def _read_along_vectors(name: str, given: Given) -> Options:
    """Read options, and refuse what does not hold along vectors."""
    check_along_vectors(name, given)
    return _read_without_report(name, given)
