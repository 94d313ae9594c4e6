"""A Jacobian as SciPy's linear operator: what multiplies, and is never held."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch.utils._pytree import tree_leaves, tree_unflatten

from chunkjac._api.multiplying import Products
from chunkjac._errors import FunctionError
from chunkjac._problem import Leaf
from chunkjac._sinks import sum_dtype
from chunkjac._tensors import rows_of


class JacobianOperator(LinearOperator):
    """Multiply NumPy's vectors by a Jacobian, and by its transpose.

    Outputs and inputs are numbered through their trees in order. What one product finds out is kept for the next.

    Args:
        products: What multiplies.
    """

    def __init__(self, products: Products) -> None:
        self._products = products
        self._inputs = products.problem.leaves
        self._outputs = products.outputs()
        shape = tuple(sum(leaf.numel for leaf in leaves) for leaves in (self._outputs.leaves, self._inputs))
        dtype = sum_dtype((*self._outputs.leaves, *self._inputs))
        super().__init__(torch.empty(0, dtype=dtype).numpy().dtype, shape)

    def _matvec(self, vector: Any) -> Any:
        return self._matmat(np.reshape(vector, (-1, 1)))[:, 0]

    def _rmatvec(self, vector: Any) -> Any:
        return self._rmatmat(np.reshape(vector, (-1, 1)))[:, 0]

    def _matmat(self, columns: Any) -> Any:
        if np.iscomplexobj(columns):
            return self._matmat(columns.real) + 1j * self._matmat(columns.imag)
        vectors = tree_unflatten(_split(columns, self._inputs), self._products.problem.spec)
        return self._joined(self._products.forth(vectors))

    def _rmatmat(self, columns: Any) -> Any:
        if np.iscomplexobj(columns):
            return self._rmatmat(columns.real) + 1j * self._rmatmat(columns.imag)
        vectors = tree_unflatten(_split(columns, self._outputs.leaves), self._outputs.spec)
        return self._joined(self._products.back(vectors))

    def _joined(self, products: Any) -> Any:
        """Return products as columns of one array."""
        rows = [rows_of(leaf.detach().to("cpu")) for leaf in tree_leaves(products)]
        return torch.cat(rows, 1).numpy().astype(self.dtype, copy=False).T


def largest_singular_values(view: JacobianOperator, k: int) -> torch.Tensor:
    """Return the k largest singular values, the largest first.

    Eigenvalues of the square are looked for in double precision, of an operator divided by its size: neither leaves the
    range of numbers.

    Raises:
        FunctionError: There are elements that are not finite.
    """
    least = min(view.shape)
    flat = view if least == view.shape[1] else view.T
    if k == least:  # which no Krylov space of a smaller dimension gives
        dense = torch.from_numpy(flat @ np.eye(least, dtype=view.dtype))
        _check_finite(float(dense.abs().max()))
        return torch.linalg.svdvals(dense)
    start = np.random.default_rng(0).standard_normal(least)  # the same values in each call
    size = float(np.abs(flat @ start.astype(view.dtype)).max())
    _check_finite(size)
    if not size:
        return torch.from_numpy(np.zeros(k, view.dtype))

    def scaled(product: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda vector: product(vector.astype(view.dtype)).astype(np.float64) / size

    wide = LinearOperator(view.shape, scaled(view.matvec), scaled(view.rmatvec), dtype=np.float64)
    values = svds(wide, k, v0=start, return_singular_vectors=False)[::-1]
    return torch.from_numpy((values * size).astype(view.dtype))


def _check_finite(size: float) -> None:
    """Refuse a Jacobian whose largest element, or so, is no number."""
    if not isfinite(size):
        raise FunctionError("the Jacobian has elements that are not finite, and so no singular values; change x.")


def _split(columns: Any, leaves: tuple[Leaf, ...]) -> list[torch.Tensor]:
    """Return the columns of an array as tensors like leaves, one beside the other."""
    rows = torch.from_numpy(np.array(np.asarray(columns).T, order="C"))
    parts = rows.split([leaf.numel for leaf in leaves], 1)
    return [part.reshape(len(rows), *leaf.shape).to(leaf.device, leaf.dtype) for part, leaf in zip(parts, leaves)]
