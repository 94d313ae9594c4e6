"""Operations as linear maps of what depends on the seeds.

Each rule says in simpler operations what an operation does to its first argument, and leaves
what does not depend on it to the prologue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch

from chunkjac._programs.passes.convolutions import convolution_backward, max_pool_backward

aten = torch.ops.aten


def _diagonal(func: Any) -> Callable[..., torch.Tensor]:
    """Return the rule of a pointwise operation that is linear in its first argument: its factor is that of ones."""

    def rule(grad: torch.Tensor, *others: Any, **kwargs: Any) -> torch.Tensor:
        ones = torch.ones(grad.shape, dtype=grad.dtype, device=grad.device)  # which do not depend on the gradient
        return grad * func(ones, *others, **kwargs)

    return rule


def _batch_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean: torch.Tensor | None,
    var: torch.Tensor | None,
    saved_mean: torch.Tensor | None,
    saved_invstd: torch.Tensor | None,
    train: bool,
    eps: float,
    mask: Sequence[bool],
) -> Any:
    """Scale each channel, where the statistics are constants."""
    if train or var is None or list(mask) != [True, False, False]:
        return NotImplemented
    factor = torch.rsqrt(var + eps)
    if weight is not None:
        factor = factor * weight
    return grad * factor.view(-1, *[1] * (grad.dim() - 2)), None, None


def _layer_norm_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    shape: Sequence[int],
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mask: Sequence[bool],
) -> Any:
    """Scale, then subtract what the mean and the variance take away: ``d - mean(d) - y mean(d y)``, d scaled."""
    if not mask[0] or any(mask[1:]):
        return NotImplemented
    dims = list(range(-len(shape), 0))
    normalized = (x - mean) * rstd
    scaled = grad * (rstd if weight is None else rstd * weight)
    along = torch.sum(scaled * (normalized / prod(shape)), dims, keepdim=True)
    return (scaled - torch.mean(scaled, dims, keepdim=True)) - normalized * along, None, None


def _softmax_backward(grad: torch.Tensor, y: torch.Tensor, dim: int, dtype: torch.dtype) -> Any:
    """Give ``g y - y sum(g y)``."""
    if dtype != grad.dtype or y.dtype != grad.dtype:
        return NotImplemented
    scaled = grad * y
    return scaled - y * torch.sum(scaled, dim, keepdim=True)


def _log_softmax_backward(grad: torch.Tensor, y: torch.Tensor, dim: int, dtype: torch.dtype) -> Any:
    """Give ``g - exp(y) sum(g)``."""
    if dtype != grad.dtype or y.dtype != grad.dtype:
        return NotImplemented
    return grad - torch.exp(y) * torch.sum(grad, dim, keepdim=True)


def _slice_backward(grad: torch.Tensor, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> Any:
    """Put zeros before and behind."""
    if step != 1:
        return NotImplemented
    size = sizes[dim]
    start = min(max(start + size if start < 0 else start, 0), size)
    return _padded(grad, dim % len(sizes), start, size - start - grad.shape[dim])


def _select_backward(grad: torch.Tensor, sizes: Sequence[int], dim: int, index: int) -> Any:
    """Put zeros before and behind."""
    dim, size = dim % len(sizes), sizes[dim]
    index = index + size if index < 0 else index
    return _padded(grad.unsqueeze(dim), dim, index, size - index - 1)


def _padded(tensor: torch.Tensor, dim: int, before: int, behind: int) -> torch.Tensor:
    """Return a tensor with zeros before and behind in one dimension."""
    if not (before or behind):
        return tensor
    return aten.constant_pad_nd(tensor, [*[0] * 2 * (tensor.dim() - 1 - dim), before, behind])


def _to_copy(tensor: torch.Tensor, *, dtype: Any = None, layout: Any = None, device: Any = None, **kwargs: Any) -> Any:
    """Leave out a copy that changes nothing (forward AD makes one for each constant that it adds)."""
    same = dtype in (None, tensor.dtype) and device in (None, tensor.device)
    return aten.alias(tensor) if same and kwargs.get("memory_format") is None else NotImplemented


_POINTWISE = (
    "threshold_backward",
    "gelu_backward",
    "silu_backward",
    "tanh_backward",
    "sigmoid_backward",
    "elu_backward",
    "leaky_relu_backward",
    "hardtanh_backward",
    "hardswish_backward",
    "hardsigmoid_backward",
    "softplus_backward",
    "mish_backward",
    "log_sigmoid_backward",
    "softshrink_backward",
    "hardshrink_backward",
    "native_dropout_backward",
)

RULES: dict[Any, Callable[..., Any]] = {
    **{(op := getattr(aten, name).default): _diagonal(op) for name in _POINTWISE if hasattr(aten, name)},
    aten._to_copy.default: _to_copy,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten._softmax_backward_data.default: _softmax_backward,
    aten._log_softmax_backward_data.default: _log_softmax_backward,
    aten.slice_backward.default: _slice_backward,
    aten.select_backward.default: _select_backward,
    aten.convolution_backward.default: convolution_backward,
    aten.max_pool2d_with_indices_backward.default: max_pool_backward,
}
