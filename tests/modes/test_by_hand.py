"""Jacobians worked out on paper, for every mode and every chunk size."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import chunkjac as cj

MODES = ("reverse", "forward", "finite-difference", "auto")
X = torch.tensor([0.5, -1.5, 2.0], dtype=torch.float64)
Y = torch.tensor([3.0, 0.25], dtype=torch.float64)
A = torch.arange(12, dtype=torch.float64).reshape(4, 3) - 5


def close(found: torch.Tensor, expected: Any, mode: str) -> None:
    """Compare exactly where derivatives are exact, to 1e-6 of the largest entry for differences."""
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert found.shape == expected.shape
    limit = 1e-6 if mode == "finite-difference" else 1e-14
    assert (found - expected).abs().max() <= limit * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 7, None])
class TestByHand:
    def test_linear_map_is_its_own_jacobian(self, mode: str, chunk_size: int | None) -> None:
        close(cj.jacobian(lambda x: A @ x, X, mode=mode, chunk_size=chunk_size), A, mode)

    def test_elementwise_function_has_its_derivative_on_the_diagonal(self, mode: str, chunk_size: int | None) -> None:
        close(cj.jacobian(lambda x: x**3, X, mode=mode, chunk_size=chunk_size), torch.diag(3 * X**2), mode)

    def test_outer_product(self, mode: str, chunk_size: int | None) -> None:
        by_x, by_y = cj.jacobian(torch.outer, X, Y, argnums=(0, 1), mode=mode, chunk_size=chunk_size)
        close(by_x, [[[Y[j] * (i == k) for k in range(3)] for j in range(2)] for i in range(3)], mode)
        close(by_y, [[[X[i] * (j == k) for k in range(2)] for j in range(2)] for i in range(3)], mode)

    def test_softmax(self, mode: str, chunk_size: int | None) -> None:
        p = torch.exp(X) / torch.exp(X).sum()
        expected = [[p[i] * (int(i == j) - p[j]) for j in range(3)] for i in range(3)]
        close(cj.jacobian(lambda x: torch.softmax(x, 0), X, mode=mode, chunk_size=chunk_size), expected, mode)

    def test_polar_coordinates(self, mode: str, chunk_size: int | None) -> None:
        r, t = 2.0, 0.75
        expected = [[math.cos(t), -r * math.sin(t)], [math.sin(t), r * math.cos(t)]]
        point = torch.tensor([r, t], dtype=torch.float64)
        found = cj.jacobian(
            lambda p: torch.stack([p[0] * p[1].cos(), p[0] * p[1].sin()]), point, mode=mode, chunk_size=chunk_size
        )
        close(found, expected, mode)

    def test_matrix_square(self, mode: str, chunk_size: int | None) -> None:
        """d(M M)_ij / dM_kl = [i = k] M_lj + M_ik [l = j]."""
        M = A[:2, :2]
        expected = [
            [[[(i == k) * M[l, j] + M[i, k] * (l == j) for l in range(2)] for k in range(2)] for j in range(2)]  # noqa: E741
            for i in range(2)
        ]
        close(cj.jacobian(lambda m: m @ m, M, mode=mode, chunk_size=chunk_size), expected, mode)

    def test_scalar_of_scalar_has_no_dimensions(self, mode: str, chunk_size: int | None) -> None:
        x = torch.tensor(0.3, dtype=torch.float64)
        close(cj.jacobian(torch.sin, x, mode=mode, chunk_size=chunk_size), math.cos(0.3), mode)

    def test_output_that_the_input_does_not_reach_is_zero(self, mode: str, chunk_size: int | None) -> None:
        reached, unreached = cj.jacobian(lambda x: (x.sum(), Y * 2), X, mode=mode, chunk_size=chunk_size)
        close(reached, [1.0, 1.0, 1.0], mode)
        assert torch.equal(unreached, torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize(("scheme", "sign"), [("forward", 1), ("backward", -1)])
def test_one_sided_differences_of_a_square_are_off_by_the_step(scheme: str, sign: int) -> None:
    """((x + h)^2 - x^2) / h = 2 x + h."""
    h = 2.0**-10  # exact in binary, so rounding plays no part
    x = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = cj.jacfd(lambda x: x**2, scheme=scheme, step=h)(x)
    assert torch.equal(found, torch.diag(2 * x + sign * h))


def test_central_difference_of_a_cubic_is_off_by_the_step_squared() -> None:
    """((x + h)^3 - (x - h)^3) / 2 h = 3 x^2 + h^2."""
    h = 2.0**-10
    found = cj.jacfd(lambda x: x**3, step=h)(torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert torch.equal(found.diagonal(), torch.tensor([3.0 + h**2, 12.0 + h**2], dtype=torch.float64))


def test_step_may_differ_between_elements() -> None:
    h = torch.tensor([2.0**-8, 2.0**-6], dtype=torch.float64)
    x = torch.tensor([1.0, 1.0], dtype=torch.float64)
    found = cj.jacfd(lambda x: x**2, scheme="forward", step=h)(x)
    assert torch.equal(found.diagonal(), 2 * x + h)


def test_difference_divides_by_the_step_that_rounding_left() -> None:
    """At 1e8 a float32 moves by multiples of 8: a step of 5 really is 8."""
    x = torch.tensor([1e8], dtype=torch.float32)
    assert cj.jacfd(lambda x: x - 1e8, scheme="forward", step=5.0)(x).item() == 1.0


def test_step_comes_from_the_lowest_precision() -> None:
    """A float64 input of a float32 function has float32's noise: a step for float64 drowns in it."""
    x = torch.linspace(0.5, 2, 20, dtype=torch.float64)
    for func in (lambda x: torch.sin(x.float()), lambda x: torch.sin(x.float()).double()):
        assert (cj.jacfd(func)(x).double().diagonal() - x.cos()).abs().max() < 1e-3


def test_auxiliary_result_is_handed_on_as_it_is() -> None:
    for mode in MODES:
        found, aux = cj.jacobian(lambda x: (x**2, {"sum": x.sum(), "text": "kept"}), X, has_aux=True, mode=mode)
        close(found, torch.diag(2 * X), mode)
        assert aux == {"sum": X.sum(), "text": "kept"}
        assert aux["sum"].grad_fn is None


def test_auxiliary_result_and_report_come_in_this_order() -> None:
    found, aux, report = cj.jacobian(lambda x: (x**2, "aux"), X, has_aux=True, return_report=True)
    close(found, torch.diag(2 * X), "auto")
    assert aux == "aux"
    assert report.chunk_sizes == (3,)


def test_differences_of_lower_precision_and_of_cancellation_are_not_taken_for_noise() -> None:
    """Kernels round differently for one point and for several; that is no randomness."""
    net = torch.nn.Sequential(torch.nn.Linear(30, 40), torch.nn.Tanh(), torch.nn.Linear(40, 3))
    x = torch.linspace(-1, 1, 30)

    def in_bfloat16(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(x).float()

    weight = torch.linspace(-1, 1, 3000).reshape(100, 30)
    offset = weight @ x

    def cancelling(x: torch.Tensor) -> torch.Tensor:
        return weight @ x - offset

    assert cj.jacobian(in_bfloat16, x, mode="finite-difference").shape == (3, 30)
    found = cj.jacobian(cancelling, x, mode="finite-difference")
    assert torch.allclose(found, weight, atol=1e-3)
