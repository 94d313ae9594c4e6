"""Finished Jacobians, checked against an independent mode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from tests.zoo import CustomSine, example, examples

MODES = ("reverse", "forward", "finite-difference", "auto")


class Wrong(CustomSine):
    """Have a derivative that is off by a tenth in one element."""

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        wrong = torch.ones_like(grad)
        wrong[..., 2] = 1.1
        return grad * ctx.saved_tensors[0].cos() * wrong


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [case.name for case in examples()])
def test_right_jacobians_are_confirmed(name: str, mode: str) -> None:
    case = example(name)
    options: dict[str, Any] = {"mode": mode, "argnums": case.argnums, "return_report": True}
    report = cj.jacobian(case.func, *case.args, verify=3, **options)[1]
    assert report.verified_error is not None
    assert report.verified_error < (1e-6 if report.plan.mode == "finite-difference" else 1e-9)
    assert any("verified by" in reason for reason in report.plan.reasons)
    assert "verified error" in str(report)
    assert cj.jacobian(case.func, *case.args, **options)[1].verified_error is None


def test_a_wrong_derivative_is_an_error() -> None:
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    with pytest.raises(cj.FunctionError, match="not confirmed by finite-difference"):
        # Forward mode by double backward would confirm it, from the same wrong formula.
        cj.jacobian(Wrong.apply, x, mode="reverse", verify=1)
    cj.jacobian(torch.sin, x, mode="reverse", verify=1)


def test_a_wrong_formula_of_forward_mode_is_an_error() -> None:
    """scatter_reduce(..., "prod") has a wrong forward derivative (torch 2.13)."""
    x = torch.linspace(1, 2, 5, dtype=torch.float64)

    def func(x: torch.Tensor) -> torch.Tensor:
        index = torch.tensor([0, 0, 1, 2, 2])
        return torch.zeros(3, dtype=x.dtype).scatter_reduce(0, index, x, "prod", include_self=False)

    with pytest.raises(cj.FunctionError, match=r"scatter_reduce.*mode='reverse' agrees"):
        cj.jacobian(func, x, mode="forward", verify=1)
    cj.jacobian(func, x, mode="reverse", verify=0)


def test_low_precision_is_no_error() -> None:
    net = nn.Sequential(nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 7))

    def func(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(x).float()

    report = cj.jacobian(func, torch.randn(12), mode="reverse", verify=2, return_report=True)[1]
    assert 0 < report.verified_error < 0.3


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_the_check_keeps_to_the_budget_and_loses_nothing(mode: str) -> None:
    case = example("mlp")
    budget_bytes = cj.plan(case.func, *case.args, mode=mode).predicted_peak_bytes
    options: dict[str, Any] = {"mode": mode, "max_memory": budget_bytes, "return_report": True}
    J, report = cj.jacobian(case.func, *case.args, verify=1, **options)
    assert report.peak_bytes <= budget_bytes
    assert torch.equal(J, cj.jacobian(case.func, *case.args, **options)[0])
    assert any("verified" in reason for reason in report.plan.reasons)


def test_a_second_look_for_which_there_is_no_room_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    n_looks = 0

    def shortened(*_: object) -> None:
        nonlocal n_looks
        n_looks += 1
        raise MemoryError

    monkeypatch.setattr("chunkjac._modes.referees.claims.shortened", shortened)
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)
    J = cj.jacobian(torch.relu, x, mode="reverse", verify=1)  # a kink lies in the middle
    assert n_looks
    assert torch.equal(J, torch.diag((x > 0).double()))


def test_what_is_not_finite_on_one_side_only_is_an_error() -> None:
    class Poisoned(Wrong):
        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * ctx.saved_tensors[0].cos() * torch.tensor([1.0, torch.nan, 1.0], dtype=grad.dtype)

    x = torch.linspace(-1, 1, 3, dtype=torch.float64)
    with pytest.raises(cj.FunctionError, match="not confirmed"):
        cj.jacobian(lambda x: (x.cos(), Poisoned.apply(x)), x, mode="reverse", verify=2)


def test_what_is_infinite_on_both_sides_is_confirmed() -> None:
    x = torch.tensor([0.0], dtype=torch.float64)
    func = torch.sqrt
    assert cj.jacobian(func, x, mode="reverse", verify=1, return_report=True)[1].verified_error < 1e-9


def test_bounds_hold_in_the_check_as_well() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        assert bool((x >= 0).all())
        return torch.from_numpy(np.sqrt(x.numpy()))

    x = torch.tensor([1e-9, 1.0], dtype=torch.float64)
    report = cj.jacobian(
        func, x, mode="finite-difference", bounds=(0.0, 2.0), batching="loop", verify=1, return_report=True
    )[1]
    assert report.verified_error is None
    assert any("not verified" in reason for reason in report.plan.reasons)


def test_verify_must_be_a_number_of_checks() -> None:
    with pytest.raises(cj.ArgumentError, match="verify"):
        cj.jacobian(torch.sin, torch.zeros(2), verify=-1)
    with pytest.raises(cj.ArgumentTypeError, match="verify"):
        cj.jacobian(torch.sin, torch.zeros(2), verify="all")
