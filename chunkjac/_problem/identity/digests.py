"""Digests: equal for equal values, whatever memory they lie in, in any process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Any

import torch

# So much of a digest is kept: two of a million million differ by chance alone.
_N_DIGITS = 24

# What is not one piece of memory is copied in pieces of this size: no budget notices them, and hashing one takes
# ten times as long as making it.
_PIECE_BYTES = 2**18

# Integers stand for types that NumPy has not (bfloat16, float8).
_STAND_INS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest_of(*parts: bytes | str) -> str:
    """Return a digest of texts or bytes; where one ends and the next begins counts."""
    found = sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(b"%d:" % len(data))
        found.update(data)
    return found.hexdigest()[:_N_DIGITS]


def tensor_digest(tensors: Iterable[torch.Tensor]) -> str:
    """Return a digest of tensors' types, shapes and values."""
    found = sha256()
    for tensor in tensors:
        found.update(looks_of(tensor).encode())
        for component in _components(tensor.detach()):
            found.update(f"{component.dtype} {list(component.shape)}".encode())
            for piece in _pieces(component):
                found.update(_data(piece))
    return found.hexdigest()[:_N_DIGITS]


def array_digest(array: Any) -> str:
    """Return a digest of a NumPy array's values; what is not one piece of memory is copied row by row."""
    found = sha256()
    for part in [array] if array.flags.c_contiguous or not array.ndim else array:
        found.update(part.tobytes() if not part.flags.c_contiguous or not part.size else memoryview(part).cast("B"))
    return found.hexdigest()[:_N_DIGITS]


def looks_of(tensor: torch.Tensor) -> str:
    """Return what a tensor is without its values: its type, shape and layout."""
    if tensor.is_nested:
        return f"{tensor.dtype} nested"
    layout = "" if tensor.layout == torch.strided else f" {str(tensor.layout).removeprefix('torch.')}"
    return f"{tensor.dtype} {list(tensor.shape)}{layout}"


def _components(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the dense tensors that a tensor consists of; nothing becomes dense that was not."""
    if tensor.is_nested:
        return tuple(tensor.unbind())
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()  # also of one that is not coalesced
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor if tensor.layout == torch.strided else tensor.to_dense(),)


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a dense tensor in pieces, in the order of its elements: small ones, or what needs no copy."""
    if tensor.nbytes <= _PIECE_BYTES or (tensor.device.type == "cpu" and tensor.is_contiguous()):
        yield tensor
        return
    n_rows = _PIECE_BYTES * tensor.shape[0] // tensor.nbytes
    if n_rows:
        yield from tensor.split(n_rows)
        return
    for row in tensor.unbind():
        yield from _pieces(row)


def _data(piece: torch.Tensor) -> Any:
    """Return the bytes of a dense tensor; NumPy copies them where that is needed, so no tensor is made on the CPU."""
    if not piece.numel():
        return b""
    values = piece.to("cpu").resolve_conj().resolve_neg()
    if values.is_complex() and values.element_size() > 4:
        values = torch.view_as_real(values)
    array: Any = values.view(_STAND_INS[values.element_size()]).numpy()
    return memoryview(array).cast("B") if array.flags.c_contiguous else array.tobytes()
