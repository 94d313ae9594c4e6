"""Second derivatives where a function is smooth and its operations are not: autograd gives 0 there, or NaN."""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import pytest
import torch

import chunkjac as cj

AT = torch.tensor([0.3, -0.2, 1.0])
SINGULAR: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, float]] = {
    # the Hessian is that number times the identity, by hand
    "exp(-norm**2)": (lambda x: torch.exp(-(torch.linalg.norm(x - AT.to(x)) ** 2)), AT, -2.0),
    "norm**2": (lambda x: torch.linalg.norm(x) ** 2, torch.zeros(3), 2.0),
    "abs**2": (lambda x: (x.abs() ** 2).sum(), torch.zeros(3), 2.0),
    "sinc": (lambda x: torch.sinc(x).sum(), torch.zeros(3), -(pi**2) / 3),
}


@pytest.mark.filterwarnings("ignore:mode='auto' has taken:chunkjac.RungWarning")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", SINGULAR)
def test_hessians_are_right_where_operations_have_no_second_derivative(name: str, dtype: torch.dtype) -> None:
    func, at, times = SINGULAR[name]
    point = at.to(dtype)
    expected = times * torch.eye(3, dtype=dtype)
    for found in (cj.hessian(func)(point), cj.jacobian(torch.func.grad(func), point)):
        torch.testing.assert_close(found, expected, rtol=0, atol=torch.finfo(dtype).eps ** (1 / 3))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", SINGULAR)
def test_a_mode_that_was_asked_for_is_refused_there(name: str, mode: str) -> None:
    func, at, _ = SINGULAR[name]
    with pytest.raises(cj.FunctionError, match="not confirmed by finite-difference"):
        cj.hessian(func, mode=mode)(at.double())


def test_a_gradient_within_keeps_nothing_from_derivatives() -> None:
    """torch.func.grad puts grad mode back: that is no part under ``no_grad`` of the function's own."""
    func, at, _ = SINGULAR["exp(-norm**2)"]
    with pytest.raises(cj.FunctionError, match="not confirmed by finite-difference"):
        cj.jacobian(torch.func.grad(func), at.double(), mode="forward")
