"""Memory that kernels work in and no tensor shows: on the CPU, what oneDNN reorders.

A convolution copies what it reads or writes into blocked layouts. Measured with torch 2.13 on
AVX-512 (the highest resident set during one call, less its tensors), in units of the larger of
its input and its output::

    forward                          1.0  (0.9-1.05 over 10 shapes)
    forward, transposed              2.0  (2.0 over 3)
    backward to the input            1.4  (1.0-1.4 over 6)
    backward to the input, strided   2.0  (1.0-2.05 over 4)
    backward, transposed             1.0  (1.0-1.25 over 3)

and before that it copies arguments whose elements do not lie side by side (an input that ``vmap``
has expanded, for instance). On other processors other kernels run; there this is a guess.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

_FORWARD = torch.ops.aten.convolution.default
_BACKWARD = torch.ops.aten.convolution_backward.default

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}

# Recurrent kernels reorder too, by a part of what is alive.
_RECURRENT = ("mkldnn_rnn", "lstm", "gru")
_RECURRENT_SHARE = 0.35


def scratch_bytes(func: Any, args: tuple[Any, ...], made: Any, live_bytes: int) -> int:
    """Return the bytes that an operation works in beside its tensors, until it ends.

    Args:
        func: The operation.
        args: Its arguments.
        made: What it returned.
        live_bytes: What is alive.
    """
    if func is _FORWARD:
        return int((2.0 if args[6] else 1.0) * max(_n_bytes(args[0]), _n_bytes(made))) + _copied_bytes(args[:2])
    if func is _BACKWARD:
        strided = any(stride > 1 for stride in args[4])
        factor = 1.25 if args[7] else 2.0 if strided else 1.4
        return int(factor * max(_n_bytes(args[0]), _n_bytes(args[1]))) + _copied_bytes(args[:3])
    return int(_RECURRENT_SHARE * live_bytes) if _is_recurrent(func) else 0


def _copied_bytes(tensors: tuple[torch.Tensor, ...]) -> int:
    """Return the bytes of those tensors that are copied, since they have no layout that convolutions take."""
    return sum(_n_bytes(tensor) for tensor in tensors if not _is_dense(tensor))


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is contiguous, with its channels second or last."""
    last = _CHANNELS_LAST.get(tensor.dim())
    return tensor.is_contiguous() or (last is not None and tensor.is_contiguous(memory_format=last))


@cache
def _is_recurrent(func: Any) -> bool:
    """Tell whether an operation is a recurrent layer."""
    return any(word in func._schema.name for word in _RECURRENT)


def _n_bytes(tensor: torch.Tensor) -> int:
    """Return the bytes of a tensor's elements."""
    return tensor.numel() * tensor.element_size()
