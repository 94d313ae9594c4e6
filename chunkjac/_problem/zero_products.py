"""Products with zeros that forward AD makes for constants, left out."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar

import torch

from chunkjac._memory import OperationMode

_ZEROS = torch.ops.aten.zeros.default
_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten.bmm.default, torch.ops.aten.mv.default}


class ZeroProducts(OperationMode):
    """Answer products with a zero matrix without computing them.

    The derivative of ``x @ w`` is ``dx @ w + x @ dw``; where ``w`` is a constant, forward AD
    takes for ``dw`` a zero expanded to the shape of ``w``, and the product copies it whole (torch
    2.13: 16 MiB and a matrix-vector product for a layer of 2048 x 2048, in every chunk).

    Attributes:
        WORTH_BYTES: Smaller products take less time than looking for them does.
        pays: Whether a product was met that is worth looking for.

    Args:
        worth_bytes: How large its zero has to be for that.
    """

    WORTH_BYTES: ClassVar[int] = 2**20

    def __init__(self, worth_bytes: int = WORTH_BYTES) -> None:
        super().__init__()
        self.pays = False
        self._worth_bytes = worth_bytes
        self._zeros: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operation, unless its result is known to be zero."""
        if func in _PRODUCTS and any(self._is_zero(matrix) for matrix in args):
            left, right = args
            shape = (*left.shape[:-1], *right.shape[left.dim() - 1 :])
            return left.new_zeros(shape, dtype=torch.promote_types(left.dtype, right.dtype))
        if func._schema.is_mutable:
            self._zeros.clear()  # what is written to, also as out= or in a list, may be one of them
        made = func(*args, **kwargs)
        if func is _ZEROS and made.dim() == 0 and made.layout == torch.strided:
            storage = made.untyped_storage()
            self._zeros[storage._cdata] = weakref.ref(storage)
        return made

    def _is_zero(self, matrix: torch.Tensor) -> bool:
        """Tell whether a matrix is an expanded zero that nobody has written to, and notice large ones."""
        if matrix.layout != torch.strided or any(matrix.stride()):
            return False
        storage = matrix.untyped_storage()
        known = self._zeros.get(storage._cdata)
        if known is None or known() is not storage:
            return False
        self.pays = self.pays or matrix.nbytes >= self._worth_bytes
        return True
