"""Memory that kernels work in and no tensor shows, on the CPU: what they copy.

oneDNN's convolutions (single precision and lower) copy what they read or write into blocked
layouts. Measured with torch 2.13 on AVX-512 (the highest resident set during one call, less its
tensors), in units of the larger of input and output::

    forward                          1.0  (0.9-1.05 over 10 shapes)
    forward, transposed              2.0  (2.0 over 3)
    backward to the input            1.4  (1.0-1.4 over 6)
    backward to the input, strided   2.0  (1.0-2.05 over 4)
    backward, transposed             1.0  (1.0-1.25 over 3)

and before that they copy arguments whose elements do not lie side by side (an input that ``vmap``
has expanded, for instance). In double precision a convolution unfolds its input, one group at a
time: forward for the whole batch (0.96-1.0 of that over 8 shapes; where it is dilated, and
backward, for one sample). On other processors other kernels run; there this is a guess.

BLAS takes matrices whose rows or columns hang together. Others are copied whole, of a batch one at a time (1.0 over
14 layouts: slices with steps, and what is expanded).
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default

_BLOCKED = (torch.float32, torch.bfloat16, torch.float16)
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# Recurrent kernels reorder too, by a part of what is held.
_RECURRENT = ("mkldnn_rnn", "lstm", "gru")
_RECURRENT_SHARE = 0.35


_aten = torch.ops.aten
_OF_MATRICES = {
    *(_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default),
    *(_aten.mv.default, _aten.addmv.default),
}


def operand_bytes(func: Any, tensors: list[torch.Tensor]) -> int:
    """Return the bytes of the matrices that a product copies at once, since BLAS cannot take it as it lies."""
    if func not in _OF_MATRICES:
        return 0
    dense = [tensor for tensor in tensors[-2:] if tensor.layout == torch.strided]
    copied = [tensor for tensor in dense if tensor.dim() > 1 and not _is_taken(tensor)]
    return sum(prod(tensor.shape[-2:]) * tensor.element_size() for tensor in copied)


def _is_taken(tensor: torch.Tensor) -> bool:
    """Tell whether the rows of a matrix, or its columns, hang together."""
    (n_rows, n_columns), (down, along) = tensor.shape[-2:], tensor.stride()[-2:]
    by_rows = (along == 1 or n_columns == 1) and (down >= max(1, n_columns) or n_rows == 1)
    return by_rows or ((down == 1 or n_rows == 1) and (along >= max(1, n_rows) or n_columns == 1))


def scratch_bytes(func: Any, args: tuple[Any, ...], made: Any, held_bytes: int) -> int:
    """Return the bytes that an operation works in beside its tensors, until it ends.

    Args:
        func: The operation.
        args: Its arguments.
        made: What it returned.
        held_bytes: What the chunk, or the prologue, holds so far.
    """
    if func is _FORWARD:
        image, weight, _, strides, _, dilation, transposed, _, _ = args
        if image.dtype in _BLOCKED:
            return int((2.0 if transposed else 1.0) * max(image.nbytes, made.nbytes)) + _copied_bytes(args[:2])
        places = image if transposed else made
        one_by_one = prod(weight.shape[2:]) == 1 and max(strides) == 1
        n_samples = 1 if max(dilation) > 1 else len(image)
        return 0 if one_by_one else n_samples * _unfolded_bytes(weight, places)
    if func is _BACKWARD:
        grad, image, weight, _, strides, _, _, transposed, *_ = args
        if image.dtype in _BLOCKED:
            factor = 1.25 if transposed else 2.0 if max(strides) > 1 else 1.4
            return int(factor * max(grad.nbytes, image.nbytes)) + _copied_bytes(args[:3])
        return _unfolded_bytes(weight, image if transposed else grad)
    return int(_RECURRENT_SHARE * held_bytes) if _is_recurrent(func) else 0


def _unfolded_bytes(weight: torch.Tensor, places: torch.Tensor) -> int:
    """Return the bytes of one sample unfolded: for each place, all that the kernel sees of one group."""
    return prod(weight.shape[1:]) * prod(places.shape[2:]) * places.element_size()


def _copied_bytes(tensors: tuple[torch.Tensor, ...]) -> int:
    """Return the bytes of those tensors that are copied, since they have no layout that convolutions take."""
    return sum(tensor.nbytes for tensor in tensors if not _is_dense(tensor))


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is contiguous, with its channels second or last."""
    last = _CHANNELS_LAST.get(tensor.dim())
    return tensor.is_contiguous() or (last is not None and tensor.is_contiguous(memory_format=last))


@cache
def _is_recurrent(func: Any) -> bool:
    """Tell whether an operation is a recurrent layer."""
    return any(word in func._schema.name for word in _RECURRENT)
