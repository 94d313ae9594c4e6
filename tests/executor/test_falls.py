"""A mode that cannot differentiate a function is left without a trace."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import chunkjac as cj
from chunkjac._memory import LiveBytes

D = torch.float64
W = np.linspace(-1, 1, 12).reshape(4, 3)


def in_numpy(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.tanh(x.detach().numpy() @ W))


def without_forward_derivative(x: torch.Tensor) -> torch.Tensor:
    index, offsets = torch.tensor([0, 1]), torch.tensor([0])
    return torch.nn.functional.embedding_bag(index, x[0] * torch.ones(2, 8, dtype=D), offsets).flatten()


CALLS: dict[str, Callable[..., Any]] = {
    "jacobian": cj.jacobian,
    "a limit": lambda f, x: cj.jacobian(f, x, max_memory="1GiB"),
    "checked": lambda f, x: cj.jacobian(f, x, verify=1),
    "planned": lambda f, x: cj.plan(f, x).run(),
    "gram": cj.gram,
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # raised in a backward pass, it leaks in torch
@pytest.mark.parametrize("func", [in_numpy, without_forward_derivative])
@pytest.mark.parametrize("name", CALLS)
def test_a_fall_to_another_mode_leaves_nothing_and_collects_nothing(
    func: Callable[..., Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full collection takes 0.1 to 0.5 s in a process with the usual libraries, and is paid at each call."""
    x = torch.linspace(0.1, 1, 4, dtype=D)[: 4 if func is in_numpy else 1]
    CALLS[name](func, x)  # what torch imports then is no part of it

    def collect(*_: Any) -> None:
        raise AssertionError("collected")

    monkeypatch.setattr(gc, "collect", collect)
    gc.disable()
    try:
        with LiveBytes(x.device) as tracker:
            found = CALLS[name](func, x)
            del found
        assert tracker.live_bytes == 0
    finally:
        gc.enable()


class Squared(torch.autograd.Function):
    """Have a derivative in reverse mode only, and none of that."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad * ctx.saved_tensors[0]


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_mode_that_a_plan_has_chosen_is_left_where_it_cannot_run_the_function_any_more() -> None:
    state, x = {"square": torch.square}, torch.linspace(-1, 1, 50, dtype=torch.float64)

    def func(x: torch.Tensor) -> torch.Tensor:
        return state["square"](x).repeat(20)

    plan, given = cj.plan(func, x), cj.plan(func, x, mode="forward")
    assert plan.mode == "forward"
    state["square"] = Squared.apply
    found, report = plan.run(x, return_report=True)
    torch.testing.assert_close(found, torch.diag(2 * x).repeat(20, 1))
    assert report.plan.mode == "reverse"
    with pytest.raises(RuntimeError, match="setup_context"):
        given.run(x)
