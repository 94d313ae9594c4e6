"""Each rule is the operator that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkjac._programs.passes.convolutions import _by_blocks
from chunkjac._programs.passes.rules import _POINTWISE, RULES

aten = torch.ops.aten
D = torch.float64


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=D, generator=torch.Generator().manual_seed(sum(shape)))


def _agree(func: Any, *args: Any) -> None:
    """Compare what a rule gives with the operator; it must apply."""
    found = RULES[func](*args)
    assert found is not NotImplemented
    wanted = func(*args)
    if isinstance(found, torch.Tensor):
        found, wanted = (found,), (wanted,)
    for this, that in zip(found, wanted):
        assert (this is None) == (that is None)
        if this is not None:
            assert this.dtype == that.dtype
            torch.testing.assert_close(this, that, rtol=1e-10, atol=1e-10)


_OTHERS: dict[str, tuple[Any, ...]] = {
    "threshold_backward": (0.1,),
    "leaky_relu_backward": (0.1, False),
    "hardtanh_backward": (-1.0, 1.0),
    "softplus_backward": (1.0, 20.0),
    "softshrink_backward": (0.5,),
    "hardshrink_backward": (0.5,),
}


@pytest.mark.parametrize("name", _POINTWISE)
def test_pointwise_rules(name: str) -> None:
    grad, x = _random(3, 5), _random(5, 3).T
    others = _OTHERS.get(name, ())
    if name == "log_sigmoid_backward":
        others = (aten.log_sigmoid_forward(x)[1],)
    if name == "native_dropout_backward":
        x, others = x > 0, (2.0,)
    args = (1.5, 1.1, 0.7, False, x) if name == "elu_backward" else (x, *others)
    _agree(getattr(aten, name).default, grad, *args)


@pytest.mark.parametrize("with_weight", [True, False])
def test_batch_norm_by_running_statistics(with_weight: bool) -> None:
    grad, x = _random(2, 3, 4, 5), _random(2, 3, 4, 5)
    weight = _random(3) if with_weight else None
    mean, var, none = _random(3), _random(3).exp(), torch.empty(0, dtype=D)
    _agree(
        aten.native_batch_norm_backward.default,
        *(grad, x, weight, mean, var, none, none, False, 1e-5, [True, False, False]),
    )


def test_batch_norm_by_its_own_statistics_has_no_rule() -> None:
    grad, none = _random(2, 3), torch.empty(0, dtype=D)
    rule = RULES[aten.native_batch_norm_backward.default]
    args = (grad, grad, None, none, none, none, none, True, 1e-5, [True, False, False])
    assert rule(*args) is NotImplemented


@pytest.mark.parametrize("with_weight", [True, False])
@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_layer_norm(shape: tuple[int, ...], with_weight: bool) -> None:
    x, grad = _random(2, 3, 5), _random(5, 3, 2).permute(2, 1, 0)
    weight = _random(*shape) if with_weight else None
    _, mean, rstd = aten.native_layer_norm(x, list(shape), weight, None, 1e-5)
    _agree(
        aten.native_layer_norm_backward.default,
        *(grad, x, list(shape), mean, rstd, weight, None, [True, False, False]),
    )


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_and_its_logarithm(dim: int) -> None:
    x, grad = _random(3, 4, 2), _random(3, 4, 2) + 1
    _agree(aten._softmax_backward_data.default, grad, x.softmax(dim), dim, D)
    _agree(aten._log_softmax_backward_data.default, grad, x.log_softmax(dim), dim, D)


@given(size=st.integers(1, 6), dim=st.integers(-2, 1), start=st.integers(-9, 9), end=st.integers(-9, 9))
def test_slice(size: int, dim: int, start: int, end: int) -> None:
    x = torch.zeros(size, size, dtype=D)
    grad = aten.slice(x, dim, start, end)
    _agree(aten.slice_backward.default, _random(*grad.shape), list(x.shape), dim, start, end, 1)


@given(size=st.integers(1, 5), dim=st.integers(-2, 1), index=st.integers(-5, 4))
def test_select(size: int, dim: int, index: int) -> None:
    assume(-size <= index < size)
    _agree(aten.select_backward.default, _random(size), [size, size], dim, index)


@settings(max_examples=150)
@given(
    n_dims=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    transposed=st.booleans(),
    options=st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2), st.integers(0, 1)),
        min_size=2,
        max_size=2,
    ),
    size=st.integers(4, 8),
)
def test_convolution(
    n_dims: int, groups: int, transposed: bool, options: list[tuple[int, int, int, int, int]], size: int
) -> None:
    kernel, stride, padding, dilation, extra = (list(part) for part in zip(*options[:n_dims]))
    extra = [min(e, s - 1) if transposed else 0 for e, s in zip(extra, stride)]
    x = _random(2, 2 * groups, *[size] * n_dims)
    weight = _random(2 * groups, 3, *kernel) if transposed else _random(3 * groups, 2, *kernel)
    args = stride, padding, dilation, transposed, extra, groups
    try:
        out = aten.convolution(x, weight, None, *args)
    except RuntimeError:  # the kernel is larger than the image
        assume(False)
    assume(out.numel() > 0)
    grad = _random(*out.shape)
    _agree(aten.convolution_backward.default, grad, x, weight, None, *args, [True, False, False])
    if n_dims == 2 and groups == 1 and not transposed:
        _agree(aten.convolution_backward.default, grad, x, weight, [len(weight)], *args, [False, True, True])


def test_copies_that_change_nothing_are_left_out() -> None:
    x = _random(3)
    assert RULES[aten._to_copy.default](x, dtype=D).data_ptr() == x.data_ptr()
    assert RULES[aten._to_copy.default](x, dtype=torch.float32) is NotImplemented


@settings(max_examples=150)
@given(
    n_in=st.integers(1, 4),
    options=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4), st.integers(0, 3)), min_size=2, max_size=2),
    sides=st.tuples(st.integers(4, 16), st.integers(4, 16)),
)
def test_a_convolution_of_few_channels_by_blocks(
    n_in: int, options: list[tuple[int, int, int]], sides: tuple[int, int]
) -> None:
    kernel, stride, padding = (list(part) for part in zip(*options))
    x, weight = _random(2, n_in, *sides), _random(5, n_in, *kernel)
    args = stride, padding, [1, 1], False, [0, 0], 1
    try:
        out = aten.convolution(x, weight, None, *args)
    except RuntimeError:  # the kernel is larger than the image
        assume(False)
    _agree(aten.convolution_backward.default, _random(*out.shape), x, weight, None, *args, [True, False, False])


@pytest.mark.parametrize(
    ("n_in", "kernel", "stride", "padding"), [(3, 7, 2, 3), (3, 3, 1, 1), (1, 3, 1, 1), (1, 5, 2, 2)]
)
def test_few_channels_are_taken_by_blocks(n_in: int, kernel: int, stride: int, padding: int) -> None:
    x, weight = _random(1, n_in, 16, 16), _random(8, n_in, kernel, kernel)
    grad = aten.convolution(x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
    made = _by_blocks(grad, weight, x.shape, [stride] * 2, [padding] * 2)
    assert made is not None
    assert made.shape == x.shape


@settings(max_examples=100)
@given(
    options=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)), min_size=2, max_size=2
    ),
    sides=st.tuples(st.integers(5, 11), st.integers(5, 11)),
    ceil_mode=st.booleans(),
    n_dims=st.integers(3, 4),
)
def test_max_pooling(
    options: list[tuple[int, int, int, int]], sides: tuple[int, int], ceil_mode: bool, n_dims: int
) -> None:
    kernel, stride, padding, dilation = (list(part) for part in zip(*options))
    assume(all(2 * p <= k for p, k in zip(padding, kernel)))
    x = _random(3, *sides) if n_dims == 3 else _random(2, 3, *sides)
    try:
        out, indices = aten.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil_mode)
    except RuntimeError:  # the window is larger than the image
        assume(False)
    args = x, kernel, stride, padding, dilation, ceil_mode, indices
    _agree(aten.max_pool2d_with_indices_backward.default, _random(*out.shape), *args)


def test_max_pooling_with_one_number_for_both_sides() -> None:
    x = _random(1, 2, 6, 6)
    out, indices = aten.max_pool2d_with_indices(x, [2])
    _agree(aten.max_pool2d_with_indices_backward.default, _random(*out.shape), x, [2], [], [0], [1], False, indices)
