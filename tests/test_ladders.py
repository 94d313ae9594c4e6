"""Functions that the fastest way cannot run, or would get wrong: each falls to a way that can."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import chunkjac as cj

# Warnings are errors in the tests; this one would be a reason to fall.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

D = torch.float64
RUNGS = {
    "reverse": ("vmap(vjp)", "vmap(vjp), grad mode on", "batched autograd.grad", "autograd.grad, row by row"),
    "forward": (
        "vmap(jvp)",
        "vmap(jvp), plain kernels",
        "double backward",
        "jvp, column by column",
        "double backward, column by column",
    ),
}


@dataclass(frozen=True)
class Hard:
    """Hold a function that is hard to differentiate, and the rungs that can.

    Attributes:
        func: The function.
        x: Where.
        rungs: The number of the rung for each mode; ``None`` where torch has no such derivative.
        tolerance: What its precision allows.
    """

    func: Callable[[torch.Tensor], torch.Tensor]
    x: torch.Tensor
    rungs: dict[str, int | None]
    tolerance: float = 1e-9


class OldSine(torch.autograd.Function):
    """Be written as functions were before torch.func."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * ctx.saved_tensors[0].cos()


class NumpySine(torch.autograd.Function):
    """Leave torch in both directions."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(grad.numpy() * np.cos(ctx.saved_tensors[0].numpy()))


def _point(*shape: int, dtype: torch.dtype = D) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def _net(*layers: nn.Module, dtype: torch.dtype = D) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*layers).to(dtype)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    return net


def _hard() -> dict[str, Hard]:
    torch.manual_seed(0)
    small = _net(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6))
    lstm, gru = nn.LSTM(3, 4), nn.GRU(3, 4)
    norm = _net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    embedding = _net(nn.Embedding(9, 5))[0]

    def save_on_cpu(x: torch.Tensor) -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu():
            return small(x)

    def in_place(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[0] = 2 * x[1]
        y[1:].copy_(x[:-1].sin())
        return y

    def inputs_embeds(x: torch.Tensor) -> torch.Tensor:
        return small(embedding(torch.tensor([1, 4])) * x)

    both_first = {"reverse": 0, "forward": 0}
    return {
        "LSTM": Hard(lambda x: lstm(x)[0], _point(5, 1, 3, dtype=torch.float32), {"reverse": 1, "forward": 1}, 1e-5),
        "GRU": Hard(lambda x: gru(x)[0], _point(5, 1, 3, dtype=torch.float32), both_first, 1e-5),
        "BatchNorm, train": Hard(norm.train(), _point(6, 3), {"reverse": 2, "forward": 2}),
        "attention": Hard(
            lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
            _point(1, 2, 4, 8),
            {"reverse": 0, "forward": 1},
        ),
        "MultiheadAttention": Hard(
            lambda x: attention(x, x, x)[0], _point(1, 4, 8, dtype=torch.float32), {"reverse": 0, "forward": 1}, 1e-5
        ),
        "TransformerEncoderLayer": Hard(
            layer, _point(1, 4, 8, dtype=torch.float32), {"reverse": 0, "forward": 1}, 1e-5
        ),
        "item": Hard(lambda x: 2 * x if x.sum().item() > 0 else x.sin(), _point(5), both_first),
        "in-place": Hard(in_place, _point(5), both_first),
        "boolean mask": Hard(lambda x: x[x > 0].square().sum() * x, _point(5), both_first),
        "autograd.Function of old": Hard(OldSine.apply, _point(5), {"reverse": 2, "forward": 2}),
        "NumPy in backward": Hard(NumpySine.apply, _point(5), {"reverse": 3, "forward": None}),
        "checkpoint": Hard(
            lambda x: checkpoint(small, x, use_reentrant=False), _point(5), {"reverse": 2, "forward": 0}
        ),
        "save_on_cpu": Hard(save_on_cpu, _point(5), {"reverse": 2, "forward": 0}),
        "torch.compile": Hard(torch.compile(small, backend="aot_eager"), _point(5), both_first),
        "FFT": Hard(lambda x: torch.fft.rfft(x).abs(), _point(6), both_first),
        "inputs_embeds": Hard(inputs_embeds, _point(2, 5), both_first),
        "expanded input": Hard(lambda x: x.sin().cumsum(0), _point(5).expand(3, 5), both_first),
        "transposed input": Hard(lambda x: x.sin() @ x.T, _point(3, 4).T, both_first),
        "cdist": Hard(lambda x: torch.cdist(x, x + 1), _point(4, 3), {"reverse": 2, "forward": None}),
    }


HARD = _hard()


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", HARD)
def test_a_hard_function_has_the_jacobian_that_plain_autograd_tells_row_by_row(name: str, mode: str) -> None:
    hard = HARD[name]
    number = hard.rungs[mode]
    if number is None:
        with pytest.raises((RuntimeError, NotImplementedError)) as caught:
            cj.jacobian(hard.func, hard.x, mode=mode)
        assert any(
            "forward mode cannot differentiate func" in note or "cannot run func" in note
            for note in caught.value.__notes__
        )
        return
    expected = torch.autograd.functional.jacobian(hard.func, hard.x)
    found, report = cj.jacobian(hard.func, hard.x, mode=mode, return_report=True)
    assert report.plan.rung == RUNGS[mode][number]
    assert torch.allclose(found, expected, rtol=0, atol=hard.tolerance)
    assert torch.allclose(
        cj.jacobian(hard.func, hard.x, mode=mode, chunk_size=1), expected, rtol=0, atol=hard.tolerance
    )


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("name", HARD)
def test_auto_finds_a_way_for_every_hard_function(name: str) -> None:
    hard = HARD[name]
    expected = torch.autograd.functional.jacobian(hard.func, hard.x)
    assert torch.allclose(cj.jacobian(hard.func, hard.x), expected, rtol=0, atol=hard.tolerance)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_fall_is_said_in_the_reasons_and_once_as_a_warning(mode: str) -> None:
    hard = HARD["autograd.Function of old"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _, report = cj.jacobian(hard.func, hard.x, mode=mode, return_report=True)
    (warning,) = seen
    assert warning.category is cj.RungWarning
    assert RUNGS[mode][2] in str(warning.message)
    assert "setup_context" in str(warning.message)
    assert warning.filename == __file__
    assert sum("cannot run func" in reason for reason in report.plan.reasons) == len(report.plan.reasons) - 1


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_wrong_batching_rule_is_found_out() -> None:
    """torch's rule for the backward pass of cdist is wrong (torch 2.13): torch.func.jacrev gives wrong rows."""
    hard = HARD["cdist"]
    _, report = cj.jacobian(hard.func, hard.x, mode="reverse", return_report=True)
    assert any("gives other values for several directions" in reason for reason in report.plan.reasons)


def test_a_rounding_error_is_no_wrong_rule() -> None:
    """What float64 inputs go through may be bfloat16: its rounding must not drop the first rung."""

    def func(x: torch.Tensor) -> torch.Tensor:
        return (x.bfloat16().sin() @ torch.linspace(0, 1, 12 * 20).view(12, 20).bfloat16()).double()

    for mode in ("reverse", "forward"):
        report = cj.jacobian(func, _point(12), mode=mode, return_report=True)[1]
        assert report.plan.rung == RUNGS[mode][0]


def test_what_is_not_finite_is_no_disagreement() -> None:
    found, report = cj.jacobian(torch.sqrt, torch.tensor([0.0, 1.0, -1.0]), mode="reverse", return_report=True)
    assert report.plan.rung == "vmap(vjp)"
    assert found[0, 0] == torch.inf
    assert found[2, 2].isnan()


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_plan_names_the_rung_and_runs_on_it() -> None:
    hard = HARD["autograd.Function of old"]
    plan = cj.plan(hard.func, hard.x, mode="reverse")
    assert plan.rung == "batched autograd.grad"
    assert torch.equal(plan.run(), hard.x.cos().diag())
