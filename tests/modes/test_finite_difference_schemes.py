"""Difference formulas: weights by hand, errors by theorem, limits kept to, errors estimated."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.differences.schemes import SCHEME_NAMES, SCHEMES, derivative_weights, extrapolate
from tests.modes.test_finite_difference_batching import F64, point

X = torch.tensor([0.5, -1.25, 2.0], dtype=F64)


def weights(*offsets: float) -> list[float]:
    """Return the weights of all points but the last."""
    return derivative_weights(torch.tensor(offsets, dtype=F64)[:, None])[:, 0].tolist()


# Fornberg, 1988, table 1: first derivative, centred; and table 3, one-sided. Divided by the step.
@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ((1, -1), [1 / 2]),
        ((1, 0), [1]),
        ((-1, 0), [-1]),
        ((1, 2, 0), [2, -1 / 2]),
        ((-1, -2, 0), [-2, 1 / 2]),
        ((1, -1, 2, -2), [2 / 3, -2 / 3, -1 / 12]),
        ((1, 2, 3, 4, 0), [4, -3, 4 / 3, -1 / 4]),
        ((1, -1, 2, -2, 3, -3), [3 / 4, -3 / 4, -3 / 20, 3 / 20, 1 / 60]),
        ((0.5, -0.5), [1]),
        ((1, -3, 0), [3 / 4, -1 / 12]),
    ],
)
def test_weights_are_those_of_the_tables(offsets: tuple[float, ...], expected: list[float]) -> None:
    assert weights(*offsets) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_weights_go_as_one_over_the_step_whatever_its_size(scale: float) -> None:
    nodes = torch.tensor([1.0, -1.0, 2.0, -2.0])[:, None]
    assert torch.allclose(derivative_weights(nodes * scale) * scale, derivative_weights(nodes))


@pytest.mark.parametrize("name", ["central", "central4", "forward", "backward"])
@pytest.mark.parametrize("one_sided", [False, True])
def test_a_formula_is_exact_for_polynomials_up_to_its_order(name: str, one_sided: bool) -> None:
    """And for none beyond, on one side; formulas that lie even gain nothing by it in the derivative either."""
    scheme = SCHEMES[name].bounded()
    nodes = [0.25 * node for node in scheme.all_nodes(on_one_side=one_sided)]
    for degree in range(1, scheme.order + 2):
        found = sum(weight * node**degree for weight, node in zip(weights(*nodes, 0.0), nodes))
        error = abs(found - (1 if degree == 1 else 0))
        assert (error < 1e-13) == (degree <= scheme.order)


def test_extrapolation_takes_away_one_power_after_the_other() -> None:
    """Slopes 1 + h^2 - 2 h^4 + 3 h^6 of four steps have the limit 1; without the last power three do."""
    steps = [0.5 * 2.0**-i for i in range(4)]
    powers = torch.tensor([[2], [4], [6]])
    slopes = [torch.tensor([[1 + h**2 - 2 * h**4 + 3 * h**6]], dtype=F64) for h in steps]
    assert extrapolate(slopes, powers).item() == pytest.approx(1, abs=1e-14)
    slopes = [torch.tensor([[1 + h**2 - 2 * h**4]], dtype=F64) for h in steps[:3]]
    assert extrapolate(slopes, powers[:2]).item() == pytest.approx(1, abs=1e-14)


def test_extrapolation_passes_over_what_is_not_finite() -> None:
    slopes = [torch.tensor([[value]], dtype=F64) for value in (float("nan"), float("inf"), 1.0 + 0.04, 1.0 + 0.01)]
    assert extrapolate(slopes, torch.tensor([[2], [4], [6]])).item() == pytest.approx(1, abs=1e-14)


# Errors of exp at x in exact arithmetic, from the first power that a formula leaves: h exp(x) / 2, and so on.
LEADING = {
    "forward": lambda h: h / 2,
    "backward": lambda h: -h / 2,
    "central": lambda h: h**2 / 6,
    "central4": lambda h: -(h**4) / 30,
}


@pytest.mark.parametrize("batching", ["native", "vmap", "loop"])
@pytest.mark.parametrize("scheme", LEADING)
def test_errors_are_those_of_the_theory(scheme: str, batching: str) -> None:
    h = 0.05 if scheme == "central4" else 1e-3
    found = cj.jacfd(torch.exp, scheme=scheme, step=h, batching=batching)(X)
    error = (found - torch.diag(X.exp())).diagonal()
    assert torch.allclose(error, LEADING[scheme](h) * X.exp(), rtol=0.02, atol=0)


def test_richardson_gains_six_powers_of_the_step() -> None:
    """The eighth order: halving the step takes the error of a function of high frequency down by some 2^8."""

    def error(h: float) -> float:
        found = cj.jacfd(lambda x: (5 * x).sin(), scheme="richardson", step=h)(X)
        return float((found - torch.diag(5 * (5 * X).cos())).abs().max())

    assert 100 < error(0.8) / error(0.4) < 500
    assert error(0.05) < 1e-12


@pytest.mark.parametrize("batching", ["native", "vmap", "loop"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_complex_step_is_exact_to_rounding(dtype: torch.dtype, batching: str) -> None:
    x = X.to(dtype)
    found = cj.jacfd(lambda x: x.exp() / (x.sin() ** 3 + x.cos() ** 3), scheme="complex", batching=batching)(x)
    s, c, e = X.sin(), X.cos(), X.exp()  # the example of Squire and Trapp
    exact = e * (s**3 + c**3 - 3 * s**2 * c + 3 * c**2 * s) / (s**3 + c**3) ** 2
    assert found.dtype == dtype
    tiny = 20 * torch.finfo(dtype).eps * float(exact.abs().max())
    assert (found.to(F64) - torch.diag(exact)).abs().max() <= tiny


def test_a_complex_step_goes_through_matrices_that_func_makes_complex() -> None:
    A = point(5, 3)
    found = cj.jacfd(lambda x: A.to(x.dtype) @ x.exp(), scheme="complex")(X)
    assert torch.allclose(found, A * X.exp(), rtol=1e-14, atol=0)


NOT_ANALYTIC: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": lambda x: x.abs() * x,
    "abs of one element": lambda x: torch.cat([x[..., :2].exp(), x[..., 2:].abs().to(x.dtype)], -1),
    "real": lambda x: (x.real if x.is_complex() else x) * x,
    "real output": lambda x: (x.real if x.is_complex() else x) ** 2,
    "conjugate": lambda x: x.conj() * x,
    "norm": lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True),
    "detached value": lambda x: x * float(x.reshape(-1)[0].real),
    "convolution": lambda x: torch.conv1d(x[..., None, :], torch.ones(1, 1, 2, dtype=x.dtype)),
}


@pytest.mark.parametrize("batching", ["auto", "loop"])
@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_what_is_not_analytic_is_an_error_that_names_another_scheme(name: str, batching: str) -> None:
    with pytest.raises(cj.FunctionError, match=r"not analytic.*give scheme='central'"):
        cj.jacfd(NOT_ANALYTIC[name], scheme="complex", batching=batching)(X)


MATRIX = point(3, 3)
VANISHING: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
    "squared residuals at the solution": (lambda x: (x @ MATRIX.to(x.dtype) - X @ MATRIX) ** 2, X),
    "residuals at the solution": (lambda x: x @ MATRIX.to(x.dtype) - X @ MATRIX, X),
    "near a double zero": (lambda x: (x - X) ** 2, X + 1e-9),
    "near zero": (lambda x: x**2, 1e-9 * X),
    "at zero": (lambda x: x**3, 0 * X),
    "all but at zero": (lambda x: x**2, 1e-30 * X),
}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("name", VANISHING)
def test_values_that_vanish_at_the_inputs_are_no_sign_against_a_complex_step(name: str, dtype: torch.dtype) -> None:
    func, x = VANISHING[name]
    found = cj.jacfd(lambda x: func(x.to(torch.complex128 if x.is_complex() else F64)), scheme="complex")(x.to(dtype))
    exact = torch.func.jacrev(func)(x.to(dtype).to(F64))
    torch.testing.assert_close(found, exact, rtol=1e-6, atol=1e-6 * float(exact.abs().max()) + 1e-30)


def test_what_takes_no_complex_numbers_is_an_error_that_says_so() -> None:
    with pytest.raises(cj.FunctionError, match=r"needs func to take complex inputs.*give scheme='central'"):
        cj.jacfd(torch.relu, scheme="complex")(X)
    with pytest.raises(cj.ArgumentError, match=r"float32 or float64, found torch\.float16"):
        cj.jacfd(torch.sin, scheme="complex")(X.half())


def test_an_output_that_the_input_does_not_reach_may_stay_real() -> None:
    reached, constant = cj.jacfd(lambda x: (x.exp(), torch.ones(2, dtype=F64)), scheme="complex")(X)
    assert torch.allclose(reached, torch.diag(X.exp()), rtol=1e-14, atol=0)
    assert torch.equal(constant, torch.zeros(2, 3, dtype=F64))


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_trees_several_arguments_and_chunks_go_with_every_scheme(scheme: str) -> None:
    def func(a: torch.Tensor, b: torch.Tensor) -> dict[str, Any]:
        return {"outer": a[:, None].exp() * b, "pair": (a.sum(), [b.sin()])}

    a, b = X, torch.tensor([0.1, 0.7], dtype=F64)
    exact = torch.utils._pytree.tree_leaves(torch.func.jacrev(func, (1, 0))(a, b))
    limit = 1e-6 if scheme in ("forward", "backward") else 1e-9
    for options in ({"chunk_size": size, "batching": way} for size in (1, 2, 5) for way in ("auto", "loop")):
        found = cj.jacobian(func, a, b, argnums=(1, 0), mode="finite-difference", scheme=scheme, **options)
        for one, another in zip(torch.utils._pytree.tree_leaves(found), exact, strict=True):
            assert one.shape == another.shape
            assert (one - another).abs().max() < limit


@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_a_plan_predicts_what_every_scheme_holds(scheme: str) -> None:
    func: Callable[..., torch.Tensor] = lambda x: torch.softmax(x.exp().cumsum(-1), -1)  # noqa: E731
    if scheme == "complex":
        func = lambda x: x.exp().cumsum(-1)  # noqa: E731
    for options in ({}, {"batching": "loop"}, {"bounds": (-10.0, 10.0)}):
        plan = cj.plan(func, point(10), mode="finite-difference", scheme=scheme, **options)
        with LiveBytes(torch.device("cpu")) as tracker:
            _, report = plan.run(return_report=True)
        assert tracker.peak_bytes == report.peak_bytes
        assert report.plan.rung == plan.rung
        assert report.peak_bytes <= plan.predicted_peak_bytes <= 1.02 * report.peak_bytes


class Watcher:
    """Be ``exp(3 x)`` times its neighbour, and note how far out it was evaluated."""

    def __init__(self, low: Any, high: Any) -> None:
        self.low, self.high = (torch.as_tensor(limit, dtype=F64) for limit in (low, high))
        self.n_calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        at = x.real if x.is_complex() else x
        assert bool((at >= self.low.to(at.dtype)).all())
        assert bool((at <= self.high.to(at.dtype)).all())
        self.n_calls += 1
        return (3 * x).exp() * x.roll(1, -1)


AT_THE_EDGE = torch.tensor([0.0, 1.0, 0.5, 1e-7, 1 - 2.0**-20, 0.3], dtype=F64)


@pytest.mark.parametrize("batching", ["native", "loop"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
def test_func_is_never_evaluated_outside_of_bounds(scheme: str, dtype: torch.dtype, batching: str) -> None:
    """One-sided formulas keep their order: within a few times the error of the same scheme without bounds."""
    x = AT_THE_EDGE.to(dtype)
    exact = torch.func.jacrev(lambda x: (3 * x).exp() * x.roll(1, -1))(x.to(F64))
    free = cj.jacfd(lambda x: (3 * x).exp() * x.roll(1, -1), scheme=scheme, batching=batching)(x)
    error = float((free.to(F64) - exact).abs().max())
    eps = torch.finfo(dtype).eps
    func = Watcher(0.0, 1.0)
    options = {"batching": batching, "bounds": (0.0, 1.0), "chunk_size": 4}
    found, report = cj.jacobian(func, x, mode="finite-difference", scheme=scheme, return_report=True, **options)
    assert func.n_calls
    within = float((found.to(F64) - exact).abs().max())
    if scheme == "complex":
        assert within <= 100 * eps
        return
    # Of a one-sided formula of the second order extrapolation takes away one power at a time, not two.
    limit = 1e4 * eps ** (2 / 3) if scheme == "richardson" else 20 * error
    assert within <= limit
    assert within / 10 <= report.estimated_error <= 10 * within


def test_bounds_may_be_numbers_or_tensors() -> None:
    zeros, ones = torch.zeros_like(AT_THE_EDGE), torch.ones_like(AT_THE_EDGE)
    found = [cj.jacfd(Watcher(0, 1), bounds=bounds)(AT_THE_EDGE) for bounds in ((0.0, 1.0), (zeros, ones), (0, ones))]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_formula_stays_central_where_there_is_room() -> None:
    h = 2.0**-10
    x = torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    found = cj.jacfd(lambda x: x**3, step=h, bounds=(0.0, 1.0))(x).diagonal()
    # ((x + h)^3 - (x - h)^3) / 2h = 3 x^2 + h^2; (4 f(x + h) - f(x + 2h) - 3 f(x)) / 2h = 3 x^2 - 2 h^2.
    assert torch.allclose(found, 3 * x**2 + torch.tensor([-2, 1, -2]) * h**2, rtol=0, atol=1e-12)


def test_a_one_sided_scheme_turns_round_at_the_end() -> None:
    h = 2.0**-10
    x = torch.tensor([0.0, 1.0], dtype=F64)
    for scheme in ("forward", "backward"):
        found = cj.jacfd(lambda x: x**2, scheme=scheme, step=h, bounds=(0.0, 1.0))(x).diagonal()
        assert torch.equal(found, torch.tensor([h, 2 - h], dtype=F64))


def test_a_step_is_shortened_to_the_room_there_is() -> None:
    x = torch.tensor([1.0, 1.0], dtype=F64)
    func = Watcher(1 - 1e-7, 1 + 1e-9)
    found = cj.jacfd(func, bounds=(1 - 1e-7, 1 + 1e-9))(x)
    exact = torch.func.jacrev(lambda x: (3 * x).exp() * x.roll(1, -1))(x)
    assert (found - exact).abs().max() < 1e-5


def test_an_open_end_is_infinite() -> None:
    x = torch.tensor([0.0, 5.0], dtype=F64)
    found = cj.jacfd(torch.sqrt, bounds=(0.0, math.inf))(x + 1e-3)
    assert torch.allclose(found, torch.diag((x + 1e-3).rsqrt() / 2), rtol=1e-3)


def test_bounds_may_be_a_tree_like_the_inputs() -> None:
    x = {"a": torch.tensor([0.0, 1.0], dtype=F64), "b": torch.tensor(2.0, dtype=F64)}
    low = {"a": torch.tensor([0.0, 0.5], dtype=F64), "b": torch.tensor(-1.0, dtype=F64)}

    def func(x: dict[str, torch.Tensor]) -> torch.Tensor:
        assert bool((x["a"] >= low["a"]).all())
        assert bool((x["a"] <= 1).all())
        return x["a"] ** 2 * x["b"]

    found = cj.jacfd(func, bounds=(low, 5.0), batching="loop")({**x, "a": x["a"] * 0.9})
    assert torch.allclose(found["a"].diagonal(), 4 * x["a"] * 0.9, atol=1e-8)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ((0.0, 1.9), cj.ArgumentError, r"x must be within bounds: at index \(2,\), x is 2 and bounds are \(0.0, 1.9\)"),
        ((X.abs(), X.abs()), cj.ArgumentError, r"bounds leave no room to step: at index \(0,\)"),
        ((X.abs() - 1e-15, X.abs()), cj.ArgumentError, "bounds leave"),
        ((2.0, 1.0), cj.ArgumentError, "low below high"),
        ((math.nan, 1.0), cj.ArgumentError, "found nan"),
        ((X[:2], X[:2]), cj.ArgumentError, "bounds must be like the input"),
        ((X.float(), 9.0), cj.ArgumentError, "bounds must be like the input"),
        (("a", 1.0), cj.ArgumentTypeError, "pair of floats"),
        (([X], 1.0), cj.ArgumentTypeError, "pair of floats"),
        (0.5, cj.ArgumentTypeError, "a pair"),
        ((1.0,), cj.ArgumentTypeError, "a pair"),
    ],
)
def test_bounds_that_cannot_be_kept_are_refused(bounds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cj.jacfd(torch.sin, bounds=bounds)(X.abs())


A, B, C, D = point(8, 12) / 3, point(12, 12) / 4, point(20, 12) / 3, point(6, 20) / 4


def mlp(x: torch.Tensor) -> torch.Tensor:
    return D.to(x.dtype) @ torch.tanh(C.to(x.dtype) @ x)


SMOOTH: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "exp": torch.exp,
    "sin": torch.sin,
    "fast": lambda x: (3 * x).sin(),
    "dense": lambda x: torch.tanh(A.to(x.dtype) @ x),
    "mlp": mlp,
    "softmax": lambda x: x.exp() / x.exp().sum(-1, keepdim=True),
    "cubic": lambda x: x**3 + 2 * x,
    "quartic form": lambda x: (x * (B.to(x.dtype) @ x)) ** 2,
    "logarithm": lambda x: (1 + x**2).log(),
    "rational": lambda x: 1 / (2 + x.cos()),
    "gauss": lambda x: torch.exp(-((x - x.roll(1)) ** 2)),
    "root": lambda x: (x * x + 1).sqrt() * x.roll(2),
    "scalar": lambda x: (x.sin() * x.roll(1).exp()).sum(),
    "with an offset": lambda x: x / (1 + x**2) + 100,
    "sums": lambda x: torch.exp(A.to(x.dtype) @ x).cumsum(0),
}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize(
    "name", [name if i % 2 == 0 else pytest.param(name, marks=pytest.mark.long) for i, name in enumerate(SMOOTH)]
)
def test_the_estimated_error_is_within_a_factor_of_ten(name: str, scheme: str, dtype: torch.dtype) -> None:
    x = (point(12) * 0.8).float().to(dtype)
    exact = torch.func.jacrev(SMOOTH[name])(x.to(F64))
    found, report = cj.jacobian(
        SMOOTH[name], x, mode="finite-difference", scheme=scheme, bounds=None, return_report=True
    )
    assert report.estimated_error is not None
    error = float((found.to(F64) - exact).abs().max())
    if scheme == "complex":  # the error may be zero by chance, but for that of the last digit
        error = max(error, torch.finfo(dtype).eps * float(exact.abs().max()) / 2)
    assert error / 10 <= report.estimated_error <= 10 * error


def test_an_error_is_estimated_only_for_finite_differences_and_when_a_report_is_wanted() -> None:
    n_calls = 0

    def func(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return x.sin()

    for mode in ("reverse", "forward"):
        report = cj.jacobian(func, X, mode=mode, return_report=True)[1]
        assert report.estimated_error is None
        assert "estimated error" not in str(report)
    counts = []
    for wanted in (False, True):
        n_calls = 0
        found = cj.jacobian(func, point(100), mode="finite-difference", batching="loop", return_report=wanted)
        counts.append(n_calls)
    assert counts[0] == 2 + 2 * 100 + 1
    assert counts[1] - counts[0] <= 1 + 6 * 6  # a few columns
    report = found[1]
    assert f"estimated error  {report.estimated_error:.1e}" in str(report)
    assert report.to_dict()["estimated_error"] == report.estimated_error


@pytest.mark.parametrize("batching", ["auto", "loop"])
def test_estimating_takes_no_more_memory_than_the_job(batching: str) -> None:
    func: Callable[..., torch.Tensor] = lambda x: x.exp().cumsum(-1)  # noqa: E731
    x = point(50)
    options: dict[str, Any] = {"mode": "finite-difference", "batching": batching}
    needed = cj.plan(func, x, chunk_size=1, **options).predicted_peak_bytes
    with LiveBytes(torch.device("cpu")) as tracker:
        _, report = cj.jacobian(func, x, max_memory=needed, return_report=True, **options)
    assert tracker.peak_bytes <= needed
    ample = cj.jacobian(func, x, return_report=True, **options)[1]
    assert ample.estimated_error is not None
    assert report.estimated_error in (None, pytest.approx(ample.estimated_error, rel=0.5))


def test_memory_that_the_estimate_lacks_costs_the_estimate_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Any) -> float:
        raise MemoryError

    monkeypatch.setattr("chunkjac._modes.differences.finite_difference.FiniteDifference.error_estimate", fails)
    found, report = cj.jacobian(torch.exp, X, mode="finite-difference", return_report=True)
    assert report.estimated_error is None
    assert torch.allclose(found, torch.diag(X.exp()), atol=1e-8)


def test_the_estimate_of_a_kinked_function_goes_by_its_own_step() -> None:
    """A network of rectifiers has kinks near every point: a formula with long steps would meet them."""
    net = torch.nn.Sequential(torch.nn.Linear(12, 50), torch.nn.ReLU(), torch.nn.Linear(50, 6))
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) / 4)
    x = point(12, dtype=F64)
    found, report = cj.jacobian(net.double(), x, mode="finite-difference", return_report=True)
    error = float((found - torch.func.jacrev(net)(x).detach()).abs().max())
    assert error <= 10 * report.estimated_error <= 1e-8


def test_an_output_without_elements_beside_others_is_no_hindrance() -> None:
    x = torch.linspace(0, 1, 4, dtype=torch.float64)
    found = cj.jacfd(lambda x: (x[:0], x**2))(x)
    assert found[0].shape == (0, 4)
    assert torch.allclose(found[1], torch.diag(2 * x), atol=1e-8)
