"""Jacobians for SciPy: operators, singular values, and its solvers' ``jac``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares, minimize, root
from scipy.sparse import issparse
from scipy.sparse.linalg import LinearOperator, aslinearoperator, lsmr, svds
from torch import nn

import chunkjac as cj

D = torch.float64


def _net(n_in: int = 30, n_out: int = 20) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, 40), nn.Tanh(), nn.Linear(40, n_out)).to(D).requires_grad_(False)


def _point(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", ["auto", "forward", "finite-difference"])
def test_an_operator_multiplies_as_the_dense_jacobian(mode: str) -> None:
    net, x = _net(), _point(30)
    dense = torch.func.jacrev(net)(x).numpy()
    view = cj.operator(net, x, mode=mode)
    tolerance = 1e-6 if mode == "finite-difference" else 1e-12
    random = np.random.default_rng(0)
    for _ in range(4):  # what is kept from one to the next is right for it
        columns, rows = random.normal(size=(30, 3)), random.normal(size=(20, 2))
        np.testing.assert_allclose(view @ columns, dense @ columns, atol=tolerance)
        np.testing.assert_allclose(view.T @ rows, dense.T @ rows, atol=tolerance)
        np.testing.assert_allclose(view @ columns[:, 0], dense @ columns[:, 0], atol=tolerance)
        np.testing.assert_allclose(view.H @ rows[:, 0], dense.T @ rows[:, 0], atol=tolerance)
    assert isinstance(view, LinearOperator)
    assert (view.shape, view.dtype) == ((20, 30), np.float64)


def test_an_operator_multiplies_complex_vectors() -> None:
    view = cj.operator(torch.square, torch.tensor([1.0, 2.0], dtype=D))
    vector = np.array([1j, 1 + 1j])
    for found in (view @ vector, view.T @ vector, view.H @ vector):
        np.testing.assert_allclose(found, [2j, 4 + 4j], atol=1e-12)
    np.testing.assert_allclose(view @ vector[:, None], [[2j], [4 + 4j]], atol=1e-12)


def test_an_operator_may_have_parts_without_elements() -> None:
    x = torch.ones(2, dtype=D)
    view = cj.operator(lambda p: (p["a"] * 2, p["b"]), {"a": x, "b": x[:0]})
    np.testing.assert_allclose(view @ np.ones(2), [2, 2])
    np.testing.assert_allclose(view.T @ np.ones(2), [2, 2])
    nothing = cj.operator(lambda x: torch.zeros(3, dtype=D) + x.sum(), x[:0])
    np.testing.assert_allclose(nothing @ np.ones(0), np.zeros(3))


def test_options_that_do_not_hold_along_vectors_are_refused() -> None:
    x = torch.ones(2, dtype=D)
    options: list[Any] = [{"bounds": (0.5, 2.0)}, {"step": x}, {"batching": "native"}]
    for option in options:
        for call in (cj.operator, cj.svdvals):
            with pytest.raises(cj.ArgumentError, match=f"{call.__name__} .*{next(iter(option))}"):
                call(torch.sqrt, x, mode="finite-difference", **option)


@pytest.mark.parametrize("dtype", [torch.float32, D])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
@pytest.mark.parametrize("k", [1, 2, 8])
def test_singular_values_of_any_size(k: int, scale: float, dtype: torch.dtype) -> None:
    numbers = torch.arange(1.0, 9.0, dtype=dtype)
    found = cj.svdvals(lambda x: x * scale * numbers, torch.ones(8, dtype=dtype), k=k)
    assert found.dtype == dtype
    torch.testing.assert_close(found / scale, numbers.flip(0)[:k], rtol=1e-5, atol=0)


@pytest.mark.parametrize("k", [1, 5])
def test_singular_values_of_zeros_and_of_no_numbers(k: int) -> None:
    x = torch.ones(5, dtype=D)
    assert torch.equal(cj.svdvals(lambda x: 0 * x, x, k=k), torch.zeros(k, dtype=D))
    with pytest.raises(cj.FunctionError, match="not finite"):
        cj.svdvals(lambda x: x * math.nan, x, k=k)


def test_arrays_of_the_other_byte_order_are_read() -> None:
    found = cj.scipy_jac(torch.square)(np.array([1.0, 2.0], dtype=">f8"))
    np.testing.assert_allclose(found, np.diag([2.0, 4.0]))


def test_an_operator_numbers_trees_in_order() -> None:
    args = {"a": _point(2), "b": _point(2, 2).float()}, _point(3)

    def func(p: dict[str, torch.Tensor], y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return p["a"].sum() * y.sin() + p["b"].sum(), (p["b"] * y[0]).float()

    dense = aslinearoperator(cj.operator(func, *args, argnums=(0, 1))) @ np.eye(9)
    tree = torch.func.jacrev(func, argnums=(0, 1))(*args)
    rows = [torch.cat([x.reshape(-1, k) for x, k in zip((*by[0].values(), by[1]), (2, 4, 3))], 1) for by in tree]
    np.testing.assert_allclose(dense, torch.cat(rows).numpy(), rtol=1e-6)


def test_an_operator_leaves_everything_as_it_was_and_keeps_to_a_limit() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(D)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    view = cj.operator(net, _point(5, 4))
    with pytest.warns(cj.RungWarning):
        assert not (view @ np.zeros(20)).any()
    with pytest.warns(cj.RungWarning):
        assert not (view.T @ np.zeros(15)).any()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    with pytest.raises(cj.BudgetError):
        cj.operator(lambda x: x.repeat(10_000).view(10_000, -1).sin().sum(0), _point(30), max_memory=100_000)


def test_lsmr_solves_with_an_operator() -> None:
    net, x = _net(20, 30), _point(20)
    wanted = np.random.default_rng(0).normal(size=20)
    view = cj.operator(net, x)
    np.testing.assert_allclose(lsmr(view, view @ wanted, 0, 1e-14, 1e-14, 0, 500)[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 4, 19, 20])
@pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
def test_singular_values_are_those_of_the_dense_jacobian(k: int, shape: tuple[int, int]) -> None:
    net, x = _net(*shape), _point(shape[0])
    expected = torch.linalg.svdvals(torch.func.jacrev(net)(x))[:k]
    found = cj.svdvals(net, x, k=k)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)
    assert torch.equal(cj.svdvals(net, x, k=k), found)


def test_singular_values_in_single_precision() -> None:
    net, x = _net().float(), _point(30).float()
    expected = torch.linalg.svdvals(torch.func.jacrev(net)(x))[:3]
    torch.testing.assert_close(cj.svdvals(net, x, k=3), expected, rtol=1e-5, atol=0)


def test_a_number_of_values_that_there_is_not_is_refused() -> None:
    for k in (0, 21):
        with pytest.raises(cj.ArgumentError, match="k must be a number from 1 to 20"):
            cj.svdvals(_net(), _point(30), k=k)
    for odd in (2.0, True):
        with pytest.raises(cj.ArgumentTypeError, match="k must be an int"):
            cj.svdvals(_net(), _point(30), k=odd)  # type: ignore[arg-type]


def _rosenbrock(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([10 * (x[1:] - x[:-1] ** 2), 1 - x[:-1]])


def test_least_squares_finds_the_minimum() -> None:
    found = least_squares(_numpy(_rosenbrock), np.full(6, -0.5), jac=cj.scipy_jac(_rosenbrock))
    np.testing.assert_allclose(found.x, 1.0, rtol=1e-6)
    sparse = least_squares(_numpy(_rosenbrock), np.full(6, -0.5), jac=cj.scipy_jac(_rosenbrock, sparse=True))
    np.testing.assert_allclose(sparse.x, 1.0, rtol=1e-6)


def test_arguments_of_the_solver_are_handed_on() -> None:
    def func(x: torch.Tensor, scale: float, *, shift: float = 0.0) -> torch.Tensor:
        return scale * x**2 - shift

    def residuals(x: Any, *args: Any, **kwargs: Any) -> Any:
        return func(torch.from_numpy(x), *args, **kwargs).numpy()

    given: Any = {"args": (2.0,), "kwargs": {"shift": 8.0}}
    found = least_squares(residuals, np.full(2, 3.0), jac=cj.scipy_jac(func), **given)
    np.testing.assert_allclose(found.x, 2.0, rtol=1e-6)


def test_root_and_minimize_take_it() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[0] + x[1] - 3, x[0] * x[1] - 2])

    np.testing.assert_allclose(root(_numpy(func), [0.0, 5.0], jac=cj.scipy_jac(func)).x, [1.0, 2.0], rtol=1e-9)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return ((x - 1) ** 2).sum()

    np.testing.assert_allclose(minimize(_numpy(loss), np.zeros(3), jac=cj.scipy_jac(loss)).x, 1.0, rtol=1e-6)


@pytest.mark.parametrize("sparse", [False, True])
def test_solve_ivp_integrates_a_stiff_problem_that_depends_on_time(sparse: bool) -> None:
    def func(t: float, y: torch.Tensor) -> torch.Tensor:
        return -1000 * (y - math.cos(t)) - math.sin(t)  # y = cos(t)

    jac = cj.scipy_jac(func, argnums=1, sparse=sparse)
    found = solve_ivp(_numpy(func), (0.0, 3.0), np.ones(5), method="BDF", jac=jac, rtol=1e-6, atol=1e-9)
    assert found.success
    np.testing.assert_allclose(found.y[:, -1], math.cos(3.0), atol=1e-5)


def test_each_point_has_its_own_jacobian_whatever_is_kept() -> None:
    jac, sparse = cj.scipy_jac(_net()), cj.scipy_jac(_net(), sparse=True)
    for seed in range(6):
        x = np.random.default_rng(seed).normal(size=30)
        expected = torch.func.jacrev(_net())(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(jac(x), expected, atol=1e-12)
        np.testing.assert_allclose(sparse(x).toarray(), expected, atol=1e-12)
    x = np.zeros(30, dtype=np.float32)
    with pytest.raises(RuntimeError, match="dtype"):
        jac(x)


def test_time_of_either_type_is_the_same_number() -> None:
    jac = cj.scipy_jac(lambda t, y: math.sin(t) * y**2, argnums=1)
    for t in (1.0, np.float64(2.0), 3, np.float32(0.5)):
        assert jac(t, np.ones(2))[0, 0] == pytest.approx(2 * math.sin(t))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_what_is_sparse_has_no_zeros(mode: str) -> None:
    found = cj.scipy_jac(lambda x: x[1:] * x[:-1], mode=mode, sparse=True, chunk_size=3)(np.arange(1.0, 6.0))
    assert issparse(found)
    assert found.nnz == 8
    expected = np.diag([2.0, 3.0, 4.0, 5.0, 0.0])[:4] + np.diag([1.0, 2.0, 3.0, 4.0], 1)[:4]
    np.testing.assert_allclose(found.toarray(), expected)
    assert cj.scipy_jac(lambda x: 0 * x, mode=mode, sparse=True)(np.ones(3)).shape == (3, 3)


def test_what_scipy_cannot_take_is_refused() -> None:
    with pytest.raises(cj.ArgumentTypeError, match="callable"):
        cj.scipy_jac(3)  # type: ignore[arg-type]
    with pytest.raises(cj.ArgumentError, match="one array"):
        cj.scipy_jac(lambda x: (x, x))(np.ones(2))
    for make in (cj.operator, cj.svdvals):
        with pytest.raises(cj.ArgumentError, match="has no report"):
            make(_net(), _point(30), return_report=True)
    with pytest.raises(cj.ArgumentTypeError, match="operator takes no out"):
        cj.operator(_net(), _point(30), out="J.npy")  # type: ignore[call-arg]


def test_it_is_said_that_scipy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._api.solvers.find_spec", lambda _: None)
    with pytest.raises(cj.ArgumentError, match=r"pip install 'chunkjac\[scipy\]'"):
        cj.operator(_net(), _point(30))


def test_svds_gives_vectors_through_an_operator() -> None:
    net, x = _net(), _point(30)
    left, values, right = svds(cj.operator(net, x), 2)
    dense = torch.func.jacrev(net)(x).numpy()
    np.testing.assert_allclose(dense @ right.T, left * values, atol=1e-9)


def _numpy(func: Any) -> Any:
    """Return a function of tensors as one of arrays."""
    return lambda *args: func(*(torch.from_numpy(np.asarray(x)) if np.ndim(x) else x for x in args)).numpy()


@pytest.mark.parametrize("scheme", ["forward", "central", "richardson"])
def test_the_first_call_evaluates_no_more_than_a_jacobian_does(scheme: str) -> None:
    calls: list[int] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.from_numpy(np.cumsum(np.sin(x.numpy())))

    options: Any = {"mode": "finite-difference", "scheme": scheme, "batching": "loop"}
    cj.jacobian(func, torch.ones(5, dtype=torch.float64), **options)
    n_calls = len(calls)
    calls.clear()
    cj.scipy_jac(func, **options)(np.ones(5))
    assert len(calls) == n_calls
