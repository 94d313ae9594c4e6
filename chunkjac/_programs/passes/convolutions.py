"""Backward passes of convolutions and pooling as linear maps of the gradient alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, prod
from typing import Any

import torch

aten = torch.ops.aten

# oneDNN makes channels by sixteens: of three it leaves the other thirteen.
_NARROW, _WIDE = 4, 16

# The patches of an image take as much as the image for each weight of a filter.
_MOST_BYTES = 64 * 2**20


def convolution_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> Any:
    """Send the gradient back to the image, the filters and the biases."""
    convolution = _Convolution(weight, stride, padding, dilation, transposed, groups)
    to_image = convolution.to_image(grad, x) if mask[0] else None
    to_weight = convolution.to_weight(grad, x) if mask[1] else None
    if (mask[0] and to_image is None) or (mask[1] and to_weight is None):
        return NotImplemented
    return to_image, to_weight, grad.sum([0, *range(2, grad.dim())]) if mask[2] else None


@dataclass(frozen=True, slots=True)
class _Convolution:
    """Hold what an image was convolved with, and how."""

    weight: torch.Tensor
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    groups: int

    def to_image(self, grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """Convolve the other way around: the transpose of a convolution is a transposed convolution, and back."""
        weight, kernel, options = self.weight, self.weight.shape[2:], (self.stride, self.padding, self.dilation)
        if self.transposed:
            back = aten.convolution(grad, weight, None, *options, False, [0] * len(kernel), self.groups)
            return back if back.shape == x.shape else None
        is_plain = self.groups == 1 and all(d == 1 for d in self.dilation)
        if is_plain and list(self.stride) == list(kernel) and not any(self.padding):
            return _patches(grad, weight, x.shape)
        if is_plain and len(kernel) == 2 and x.shape[1] <= _NARROW and grad.device.type == "cpu":
            image = _by_blocks(grad, weight, x.shape, self.stride, self.padding)
            if image is not None:
                return image
        left = [
            size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
            for size, out, s, p, d, k in zip(x.shape[2:], grad.shape[2:], *options, kernel)
        ]
        return aten.convolution(grad, weight, None, *options, True, left, self.groups)

    def to_weight(self, grad: torch.Tensor, x: torch.Tensor) -> torch.Tensor | None:
        """Multiply by what each filter sees: the patches of the image, which are laid side by side."""
        weight = self.weight
        n_bytes = grad[:, :1].numel() * weight[:1].numel() * x.element_size()
        if self.transposed or self.groups != 1 or weight.dim() != 4 or n_bytes > _MOST_BYTES:
            return None
        kernel, dilation, padding, stride = map(list, (weight.shape[2:], self.dilation, self.padding, self.stride))
        seen = aten.im2col(x, kernel, dilation, padding, stride)  # (images, in a patch, patches)
        seen = seen.permute(0, 2, 1).reshape(-1, seen.shape[1])
        return torch.mm(grad.transpose(0, 1).reshape(len(weight), -1), seen).view(weight.shape)


def max_pool_backward(
    grad: torch.Tensor,
    x: torch.Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    indices: torch.Tensor,
) -> Any:
    """Multiply by where the largest is in each window, once for each place in it."""
    sizes, counts = x.shape[-2:], grad.shape[-2:]
    place = torch.arange(sizes.numel(), device=x.device).view(sizes)
    options = [_pair(option) for option in (kernel, stride or kernel, padding, dilation)]
    image = grad.new_zeros(x.shape)
    for offsets in product(*map(range, options[0])):
        pairs = [_met(*each) for each in zip(offsets, counts, sizes, *options[1:])]
        windows, pixels = ((..., *slices) for slices in zip(*pairs))
        is_there = (indices[windows] == place[pixels]).to(grad.dtype)
        image[pixels].add_(grad[windows] * is_there)  # vmap has no rule for addcmul_
    return image


def _met(offset: int, count: int, size: int, stride: int, padding: int, dilation: int) -> tuple[slice, slice]:
    """Return which windows have a place at this offset in the image, and which pixels these are."""
    shift = offset * dilation - padding
    first, last = max(0, ceil(-shift / stride)), min(count - 1, (size - 1 - shift) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(first * stride + shift, last * stride + shift + 1, stride)


def _pair(option: Sequence[int]) -> Sequence[int]:
    """Return an option for rows and for columns."""
    return option if len(option) == 2 else [*option, *option]


def _by_blocks(
    grad: torch.Tensor, weight: torch.Tensor, shape: torch.Size, stride: Sequence[int], padding: Sequence[int]
) -> torch.Tensor | None:
    """Make blocks of pixels as channels, where there are few channels; ``None`` where blocks do not divide the image.

    Pixel ``B i + a`` gets ``W[a + p - s j]`` times the gradient at ``(B / s) i + j``, for all j for which there is such
    a weight. So all pixels of a block come of one convolution with stride ``B / s``, whose channels are they.

    Source:
        Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016 (for one block a stride).
    """
    n_out, n_in, *kernel = weight.shape
    sides = [s if s > 1 else _side(n_in) for s in stride]
    if any(size % side for size, side in zip(shape[2:], sides)) or n_in * prod(sides) > 3 * _WIDE:
        return None
    taps = [_taps(*option) for option in zip(sides, kernel, stride, padding)]
    steps = [side // s for side, s in zip(sides, stride)]
    blocks = [size // side for size, side in zip(shape[2:], sides)]
    before = [-first for first, _ in taps]
    behind = [
        (n - 1) * step + len(places[0]) - ahead - size
        for n, step, (_, places), ahead, size in zip(blocks, steps, taps, before, grad.shape[2:])
    ]
    pads = [max(ahead, rest, 0) for ahead, rest in zip(before, behind)]
    if any((pad - ahead) % step for pad, ahead, step in zip(pads, before, steps)):
        return None
    wide = torch.constant_pad_nd(weight, [0, 1, 0, 1])
    for dim, (_, places) in zip((2, 4), taps):
        chosen = wide.index_select(dim, torch.tensor([j for row in places for j in row], device=weight.device))
        wide = chosen.view(*chosen.shape[:dim], len(places), len(places[0]), *chosen.shape[dim + 1 :])
    filters = wide.permute(2, 4, 1, 0, 3, 5).reshape(-1, n_out, len(taps[0][1][0]), len(taps[1][1][0]))
    made = aten.convolution(grad, filters, None, steps, pads, [1, 1], False, [0, 0], 1)
    for dim, (pad, ahead, step, n) in enumerate(zip(pads, before, steps, blocks), start=2):
        made = made.narrow(dim, (pad - ahead) // step, n)
    pixels = made.reshape(len(grad), *sides, n_in, *blocks)
    return pixels.permute(0, 3, 4, 1, 5, 2).reshape(shape)


def _side(n_in: int) -> int:
    """Return the side of square blocks that make at least a vector of channels, or nearly."""
    return 2 if 4 * n_in >= _WIDE // 2 else 4


def _taps(side: int, kernel: int, stride: int, padding: int) -> tuple[int, list[list[int]]]:
    """Return the first j, and for each place in a block the weight of each j; that behind the last is zero."""
    first, last = ceil((padding - kernel + 1) / stride), (side - 1 + padding) // stride
    places = [[a + padding - stride * j for j in range(first, last + 1)] for a in range(side)]
    return first, [[tap if 0 <= tap < kernel else kernel for tap in row] for row in places]


def _patches(grad: torch.Tensor, weight: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Multiply, where patches do not overlap: each pixel belongs to one of them, or to none."""
    n, n_out, *grid = grad.shape
    n_in, kernel = weight.shape[1], weight.shape[2:]
    d = len(grid)
    rows = grad.permute(0, *range(2, d + 2), 1).reshape(-1, n_out)
    patches = torch.mm(rows, weight.reshape(n_out, -1)).view(n, *grid, n_in, *kernel)
    order = [0, d + 1, *(dim for i in range(d) for dim in (1 + i, d + 2 + i))]
    image = patches.permute(order).reshape(n, n_in, *(g * k for g, k in zip(grid, kernel)))
    rest = [size - covered for size, covered in zip(shape[2:], image.shape[2:])]
    return aten.constant_pad_nd(image, [part for more in reversed(rest) for part in (0, more)]) if any(rest) else image
