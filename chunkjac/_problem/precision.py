"""The lowest precision that a function computes in."""

from __future__ import annotations

from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from chunkjac._memory import LIFT_FRESH, OperationMode
from chunkjac._tensors import memory_of, tensors_among

_PRODUCTS = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.mv.default,
    torch.ops.aten.addmv.default,
}

# Whose operations are torch's own.
_OWN = {"aten", "prims", "higher_order", "mkldnn", "quantized"}


class PrecisionWatcher(OperationMode):
    """Note the largest machine epsilon among the results of all operations.

    A float64 function may compute in float32 inside, and autocast in bfloat16: a step for
    float64 would drown in that noise.

    Attributes:
        eps: The largest epsilon so far; 0 before the first.
        n_operations: How many operations have run.
        has_products: Whether matrix products were among them.
        has_foreign: Whether an operation was not torch's own: what it computes in is not seen.
        largest_bytes: The size of the largest result, views aside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.eps = 0.0
        self.n_operations = 0
        self.has_products = False
        self.has_foreign = False
        self.largest_bytes = 0
        self._dtypes: set[torch.dtype] = set()  # of results
        self._constants = _Memories()  # of what no tensor outside of the function has a part in
        self._given = _Memories()  # of numbers that may come from anywhere: they count where they are made part of more

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operation and look at what it made."""
        made = func(*args, **kwargs)
        self.n_operations += 1
        self.has_products = self.has_products or func in _PRODUCTS
        self.has_foreign = self.has_foreign or func.namespace not in _OWN
        if func is LIFT_FRESH:  # of `torch.tensor`: nothing tells where the numbers come from
            self._given.add(made)
        elif self._is_constant(args):
            self._constants.add(made)  # its precision is not that of the computation
        elif not self._is_usual(made):
            self._look(made, args)
        return made

    def _is_usual(self, made: Any) -> bool:
        """Tell whether a result tells nothing new, as most do."""
        is_dense = isinstance(made, torch.Tensor) and made.layout == torch.strided
        return is_dense and made.dtype in self._dtypes and made.nbytes <= self.largest_bytes and not self._given

    def _look(self, made: Any, args: tuple[Any, ...]) -> None:
        """Look at what an operation has made of its arguments."""
        if not any(isinstance(value, torch.Tensor) and value.dtype.is_floating_point for value in args):
            return  # a mask, an index
        given = [arg for arg in _dense(args) if arg.dtype.is_floating_point and arg in self._given]
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
                self.eps = max(self.eps, *(torch.finfo(part.dtype).eps for part in (value, *given)))
                self._dtypes.add(value.dtype)
                is_view = any(isinstance(arg, torch.Tensor) and _is_seen_through(value, arg) for arg in args)
                n_bytes = value.nbytes if value.layout == torch.strided and not is_view else 0
                self.largest_bytes = max(self.largest_bytes, n_bytes)

    def _is_constant(self, args: tuple[Any, ...]) -> bool:
        """Tell whether an operation works on nothing but what the function has made of nothing."""
        tensors = _dense(args)
        return all(tensor in self._constants for tensor in tensors) if self._constants or not tensors else False


class _Memories(dict[int, StorageWeakRef]):
    """Memory that dense tensors lie in; none of it is another's while this lives."""

    def add(self, made: Any) -> None:
        """Take in the memory of results."""
        for tensor in _dense((made,)):
            self[memory_of(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def __contains__(self, tensor: object) -> bool:
        """Tell whether a tensor lies in it."""
        return isinstance(tensor, torch.Tensor) and super().__contains__(memory_of(tensor))


def _dense(values: Any) -> list[torch.Tensor]:
    """Return the dense tensors among values."""
    return [tensor for tensor in tensors_among(values) if tensor.layout == torch.strided]


def _is_seen_through(value: torch.Tensor, arg: torch.Tensor) -> bool:
    """Tell whether a result is in an argument's memory."""
    is_dense = value.layout == arg.layout == torch.strided
    return is_dense and memory_of(value) == memory_of(arg)
