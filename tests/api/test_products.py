"""Products with a Jacobian that is never held: the same as with the whole, for one vector and for many."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes

MODES = ("auto", "reverse", "forward", "finite-difference")
D = torch.float64


def _net(*widths: int, dtype: torch.dtype = D) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(widths)]
    return nn.Sequential(*layers).to(dtype).requires_grad_(False)


def _point(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def _close(found: Any, expected: Any, mode: str = "reverse") -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if mode == "finite-difference" else 1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 50])
def test_products_are_those_with_the_dense_jacobian(mode: str, chunk_size: int | None) -> None:
    net, x = _net(12, 20, 9), _point(12)
    jacobian = torch.func.jacrev(net)(x)
    vectors, weights = _point(5, 12, seed=3), _point(4, 9, seed=4)
    options: Any = {"mode": mode, "chunk_size": chunk_size}
    _close(cj.matvec(net, x, vectors, **options), vectors @ jacobian.T, mode)
    _close(cj.matvec(net, x, vectors[0], **options), jacobian @ vectors[0], mode)
    _close(cj.rmatvec(net, x, weights, **options), weights @ jacobian, mode)
    _close(cj.rmatvec(net, x, weights[0], **options), weights[0] @ jacobian, mode)


def _alike(found: Any, expected: Any) -> None:
    """Compare values; of several types, products have the widest."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6, check_dtype=False)


def _func(p: dict[str, torch.Tensor], scale: float, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return scale * p["a"].outer(y), (p["b"].sin() * y.prod()).float()


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_trees_of_vectors_are_like_inputs_and_outputs(mode: str) -> None:
    args = {"a": _point(2), "b": _point(2, 2).float()}, 2.0, _point(3)
    options: Any = {"argnums": (0, -1), "mode": mode}

    def both(p: Any, y: Any) -> Any:
        return _func(p, 2.0, y)

    tangents = {"a": _point(4, 2, seed=5), "b": _point(4, 2, 2, seed=6).float()}, _point(4, 3, seed=7)
    found = cj.matvec(_func, *args, tangents, **options)
    for i in range(4):
        one: Any = ({name: values[i] for name, values in tangents[0].items()}, tangents[1][i])
        expected = torch.func.jvp(both, (args[0], args[2]), one)[1]
        _alike(tuple(values[i] for values in found), expected)
        _alike(cj.matvec(_func, *args, one, **options), expected)
    weights = _point(4, 2, 3, seed=8), _point(4, 2, 2, seed=9).float()
    found = cj.rmatvec(_func, *args, weights, **options)
    vjp = torch.func.vjp(both, args[0], args[2])[1]
    for i in range(4):
        expected = vjp(tuple(values[i] for values in weights))
        _alike(found[0]["b"][i], expected[0]["b"])
        _alike(found[1][i], expected[1])
        _alike(cj.rmatvec(_func, *args, tuple(w[i] for w in weights), **options), expected)


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("length", [1e-9, 1.0, 1e9])
def test_differences_step_by_the_size_of_the_point_however_long_a_vector_is(size: float, length: float) -> None:
    x, v = size * _point(6), length * _point(6, seed=2)
    scale = max(size, 1.0)
    found = cj.matvec(lambda x: (x / scale).sin() * scale, x, v, mode="finite-difference")
    torch.testing.assert_close(found, (x / scale).cos() * v, rtol=1e-7, atol=0)


def test_differences_move_no_element_by_more_than_suits_it() -> None:
    def black_box(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.sin(x.detach().numpy()))

    x, v = torch.tensor([1e6, 0.5], dtype=D), torch.tensor([0.0, 1.0], dtype=D)
    for vectors in (v, torch.stack([v, 1e-9 * v, 1e9 * v])):
        torch.testing.assert_close(
            cj.matvec(black_box, x, vectors, batching="loop"), x.cos() * vectors, rtol=1e-8, atol=0
        )


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize(
    ("dtype", "size", "length"),
    [
        (torch.float16, 1000.0, 0.01),
        (torch.float16, 1.0, 1e-5),
        (torch.bfloat16, 1e20, 1e-20),
        (torch.float32, 1e20, 1e-20),
        (torch.float32, 1.0, 1e-40),
        (D, 1e200, 1e-200),
        (D, 1.0, 5e-324),
    ],
)
def test_no_size_of_vectors_is_out_of_range(dtype: torch.dtype, size: float, length: float, mode: str) -> None:
    x, v = torch.full((3,), size, dtype=dtype), torch.full((3,), length, dtype=dtype)
    found = cj.matvec(lambda x: 2 * x, x, v, mode=mode)
    torch.testing.assert_close(found.to(dtype), 2 * v, rtol=1e-2, atol=0)


def test_vectors_that_move_nothing_have_no_differences() -> None:
    x, v = torch.full((3,), 1e200, dtype=D), torch.full((3,), 1e-200, dtype=D)
    for func, mode in ((torch.sin, "finite-difference"), (lambda x: x.detach().sin(), "auto")):
        with pytest.raises(cj.ArgumentError, match=r"vectors are so small.*mode='forward'"):
            cj.matvec(func, x, v, mode=mode)


def test_the_imaginary_axis_is_an_axis_for_products_too() -> None:
    x, v = _point(3), _point(2, 3, seed=2)
    for vectors in (v, v[0]):
        options: Any = {"mode": "finite-difference", "scheme": "complex"}
        torch.testing.assert_close(cj.matvec(torch.sin, x, vectors, **options), x.cos() * vectors, rtol=1e-12, atol=0)
        torch.testing.assert_close(cj.rmatvec(torch.sin, x, vectors, **options), x.cos() * vectors, rtol=1e-12, atol=0)


@pytest.mark.parametrize("batching", ["native", 3])
def test_batches_of_points_are_refused(batching: Any) -> None:
    for multiply in (cj.matvec, cj.rmatvec):
        with pytest.raises(cj.ArgumentError, match="batching='auto', 'vmap' or 'loop'"):
            multiply(torch.sin, _point(3), _point(3), batching=batching)


@pytest.mark.parametrize("mode", MODES)
def test_outputs_of_several_types_keep_their_precision(mode: str) -> None:
    x, u = _point(3), (torch.zeros(3), _point(3, seed=2), torch.zeros(3))
    found = cj.rmatvec(lambda x: (x.float(), x**2, x.float()), x, u, mode=mode)
    torch.testing.assert_close(found, 2 * x * u[1], rtol=0, atol=1e-7 if mode == "finite-difference" else 1e-14)


def test_a_step_of_the_users_is_taken_along_the_vector() -> None:
    x, v = torch.tensor([1.0], dtype=D), torch.tensor([2.0], dtype=D)
    found = cj.matvec(lambda x: x**3, x, v, mode="finite-difference", step=0.25)
    assert found.item() == pytest.approx((1.5**3 - 0.5**3) / 0.5, rel=1e-12)
    with pytest.raises(cj.ArgumentError, match="step must be None or a float"):
        cj.matvec(lambda x: x**3, x, v, mode="finite-difference", step=torch.ones(1, dtype=D))


def test_black_boxes_are_multiplied_by_differences() -> None:
    def black_box(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(x.detach().numpy() ** 2)

    x = _point(5)
    with pytest.warns(cj.RungWarning, match="loop"):
        found = cj.matvec(black_box, x, torch.ones(5, dtype=D)), cj.rmatvec(black_box, x, torch.eye(5, dtype=D))
    _close(found[0], 2 * x, "finite-difference")
    _close(found[1], torch.diag(2 * x), "finite-difference")


def test_zero_vectors_and_none_at_all() -> None:
    net, x = _net(12, 9), _point(12)
    for mode in MODES:
        assert not cj.matvec(net, x, torch.zeros(2, 12, dtype=D), mode=mode).any()
        assert cj.matvec(net, x, torch.zeros(0, 12, dtype=D), mode=mode).shape == (0, 9)
        assert cj.rmatvec(net, x, torch.zeros(0, 9, dtype=D), mode=mode).shape == (0, 12)


@pytest.mark.parametrize("is_back", [False, True])
def test_many_vectors_keep_to_a_limit(is_back: bool) -> None:
    net, x = _net(200, 300, 200, dtype=torch.float32), _point(200).float()
    vectors = _point(400, 200, seed=3).float()
    limit_bytes = 400 * 200 * 4 + 300_000
    product = cj.rmatvec if is_back else cj.matvec
    with LiveBytes(torch.device("cpu")) as live:
        found = product(net, x, vectors, mode="reverse" if is_back else "forward", max_memory=limit_bytes)
    assert live.peak_bytes <= limit_bytes
    jacobian = torch.func.jacrev(net)(x)
    torch.testing.assert_close(found, vectors @ (jacobian if is_back else jacobian.T), rtol=1e-4, atol=1e-5)


def test_bad_vectors_are_refused_with_a_remedy() -> None:
    net, x = _net(12, 9), _point(12)
    with pytest.raises(cj.ArgumentError, match=r"shape of the inputs, \[12\], or \['k', 12\] for k, found \[9\]"):
        cj.matvec(net, x, _point(9))
    with pytest.raises(cj.ArgumentError, match=r"shape of the outputs, \[9\]"):
        cj.rmatvec(net, x, _point(12))
    with pytest.raises(cj.ArgumentError, match=r"torch\.float64 on cpu, found torch\.float32"):
        cj.matvec(net, x, _point(12).float())
    with pytest.raises(cj.ArgumentTypeError, match="the last argument, must be tensors in a tree like the inputs"):
        cj.matvec(net, x, [_point(12)])
    with pytest.raises(cj.ArgumentTypeError, match="found 1 arguments"):
        cj.rmatvec(net, x)
    with pytest.raises(cj.ArgumentTypeError, match="matvec takes no out"):
        cj.matvec(net, x, x, out=x)  # type: ignore[call-arg]
    with pytest.raises(cj.ArgumentError, match="as many in each tensor"):
        cj.matvec(lambda p: p[0] + p[1], (x, x), (_point(2, 12), _point(3, 12)))


def test_a_report_is_given_beside_the_products() -> None:
    net, x = _net(12, 9), _point(12)
    found, report = cj.matvec(net, x, _point(3, 12), mode="forward", return_report=True)
    assert found.shape == (3, 9)
    assert report.plan.n_directions == 3


def test_vectors_may_require_grad() -> None:
    v = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(cj.matvec(torch.sin, torch.zeros_like(v).detach(), v), torch.ones_like(v))
    assert torch.equal(cj.rmatvec(torch.sin, torch.zeros_like(v).detach(), v), torch.ones_like(v))
