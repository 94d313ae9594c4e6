"""A Jacobian as SciPy's linear operator: what multiplies, and is never held."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch.utils._pytree import tree_leaves, tree_unflatten

from chunkjac._products import Products
from chunkjac._sinks import sum_dtype
from chunkjac._tensors import rows_of
from chunkjac._types import Leaf


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
        vectors = tree_unflatten(_split(columns, self._inputs), self._products.problem.spec)
        return self._joined(self._products.forth(vectors))

    def _rmatmat(self, columns: Any) -> Any:
        vectors = tree_unflatten(_split(columns, self._outputs.leaves), self._outputs.spec)
        return self._joined(self._products.back(vectors))

    def _joined(self, products: Any) -> Any:
        """Return products as columns of one array."""
        rows = [rows_of(leaf.detach().to("cpu")) for leaf in tree_leaves(products)]
        return torch.cat(rows, 1).numpy().astype(self.dtype, copy=False).T


def _split(columns: Any, leaves: tuple[Leaf, ...]) -> list[torch.Tensor]:
    """Return the columns of an array as tensors like leaves, one beside the other."""
    rows = torch.from_numpy(np.array(np.asarray(columns).real.T, order="C"))
    parts = rows.split([leaf.numel for leaf in leaves], 1)
    return [part.reshape(-1, *leaf.shape).to(leaf.device, leaf.dtype) for part, leaf in zip(parts, leaves)]
