"""How many bytes operations make that no shape tells: by values, and by what is sparse."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch

from chunkjac._memory.storages import parts_of

_INT64_BYTES = 8
_MASKS = (torch.bool, torch.uint8)


def _nonzero(x: torch.Tensor) -> int:
    """Return the bytes of an index for each element that is not zero."""
    return _INT64_BYTES * x.dim() * _n_true(x)


def _masked_select(x: torch.Tensor, mask: torch.Tensor) -> int:
    """Return the bytes of what a mask lets through."""
    return x.element_size() * _n_true(torch.broadcast_tensors(x, mask)[1])


def _index(x: torch.Tensor, indices: list[torch.Tensor | None]) -> int:
    """Return the bytes of what is picked: a mask picks as an index for each of its elements that are true."""
    places: list[torch.Tensor | None] = []
    n_indices = 0
    for index in indices:
        if index is None or index.dtype not in _MASKS:
            places.append(None if index is None else index.to("meta"))
            continue
        places += [torch.empty(_n_true(index), dtype=torch.int64, device="meta")] * index.dim()
        n_indices += index.dim() * _n_true(index)
    # The kernel finds these indices first, and holds them beside its result.
    return torch.ops.aten.index.Tensor(torch.empty_like(x, device="meta"), places).nbytes + _INT64_BYTES * n_indices


def _unique(x: torch.Tensor, *_options: Any) -> int:
    """Return the bytes of values that all differ, of where each is, and of how often."""
    return (x.element_size() + 2 * _INT64_BYTES) * x.numel()


def _repeat_interleave(repeats: torch.Tensor, **_options: Any) -> int:
    """Return the bytes of an index for each repetition."""
    return _INT64_BYTES * int(repeats.sum())


def _bincount(x: torch.Tensor, _weights: torch.Tensor | None = None, minlength: int = 0) -> int:
    """Return the bytes of a count for each number up to the largest."""
    return _INT64_BYTES * max(minlength, int(x.max()) + 1 if x.numel() else 0)


def recurrent_bytes(x: torch.Tensor, *rest: Any) -> int:
    """Return the bytes of a recurrent layer's results, and of what it keeps for its backward pass.

    The latter is no more than this for LSTMs of 8 to 100 units, 4 to 64 inputs and 10 to 150 steps (1.3 to 2.5 times as
    much; torch 2.13, AVX-512), and its meta kernel says that it is nothing.
    """
    n_units, n_steps, n_inputs, is_trained = rest[8], x.shape[0] * x.shape[1], x.shape[2], rest[-1]
    item_bytes = x.element_size()
    kept_bytes = item_bytes * (n_steps + x.shape[1]) * (17 * n_units + 6 * max(n_inputs, 16)) + 12 * 4096
    return item_bytes * n_units * (n_steps + 2 * x.shape[1]) + (kept_bytes if is_trained else 0)


def _to_sparse(x: torch.Tensor, *_options: Any, **_more: Any) -> int:
    """Return the bytes of all elements with their places."""
    return (x.element_size() + _INT64_BYTES * (x.dim() + 1)) * x.numel()


def _n_true(x: torch.Tensor) -> int:
    """Return how many elements are not zero."""
    return int(x.count_nonzero())


_aten = torch.ops.aten

RECURRENT = _aten.mkldnn_rnn_layer.default

# By what an operation is given. All are bounds, and those of masks and counts are exact.
SIZES: Mapping[Any, Callable[..., int]] = {
    _aten.nonzero.default: _nonzero,
    _aten.masked_select.default: _masked_select,
    _aten.index.Tensor: _index,
    _aten._unique.default: _unique,
    _aten._unique2.default: _unique,
    _aten.unique_dim.default: _unique,
    _aten.unique_consecutive.default: _unique,
    _aten.unique_dim_consecutive.default: _unique,
    _aten.repeat_interleave.Tensor: _repeat_interleave,
    _aten.bincount.default: _bincount,
    RECURRENT: recurrent_bytes,
    _aten._to_sparse.default: _to_sparse,
    _aten._to_sparse.sparse_dim: _to_sparse,
    _aten._to_sparse_csr.default: _to_sparse,
    _aten._to_sparse_csc.default: _to_sparse,
}


def depends_on_values(func: Any, tensors: Sequence[torch.Tensor]) -> bool:
    """Tell whether the size of what an operation makes depends on values: of indices, only where there are masks."""
    return func in SIZES and (func is not _aten.index.Tensor or any(index.dtype in _MASKS for index in tensors[1:]))


def is_sparse(tensors: Sequence[torch.Tensor]) -> bool:
    """Tell whether any tensor is not dense: torch has no meta kernels for most of what is done with those."""
    return any(tensor.layout != torch.strided for tensor in tensors)


def sparse_bytes(func: Any, tensors: Sequence[torch.Tensor]) -> int | None:
    """Return a bound for what torch's own operation makes of tensors, some of which are sparse; ``None`` for none."""
    name, sparse = func._schema.name.removeprefix("aten::"), [x for x in tensors if x.layout != torch.strided]
    if name in _SPARSE_PRODUCTS:
        left, right = tensors[-2:]
        n_made = prod(left.shape[:-1]) * (right.shape[-1] if right.dim() > 1 else 1)
        return (_SPARSE_BYTES if len(sparse) > 1 else right.element_size()) * n_made
    if name in ("_to_dense", "to_dense"):
        return sparse[0].numel() * _LARGEST_ITEM_BYTES
    keeps_places = torch.Tag.pointwise in func.tags or name in _OF_WHAT_IS_THERE
    if keeps_places and len(sparse) == len(tensors):
        return 2 * sum(part.nbytes for tensor in sparse for part in parts_of(tensor))
    return None


# They make rows of the last tensor but one times columns of the last: dense, unless both are sparse.
_SPARSE_PRODUCTS = ("mm", "bmm", "mv", "addmm", "addmv", "_sparse_addmm", "_sparse_mm", "_sparse_sparse_matmul")
_SPARSE_BYTES, _LARGEST_ITEM_BYTES = 16 + 2 * _INT64_BYTES, 16  # of complex128, with its places

# As pointwise ones do, they keep the places that they are given, those of two tensors at most.
_OF_WHAT_IS_THERE = ("clone", "_coalesce", "_to_copy", "cat", "_sparse_softmax", "_sparse_log_softmax")
