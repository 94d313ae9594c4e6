"""What a function exchanges for other tensors is put back, wherever it is found and whatever ends the call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj

D = torch.float64
MODES = ["reverse", "forward", "finite-difference", "auto"]
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")


class Mean(nn.Module):
    """Keep a mean that is written to first and exchanged then; draw numbers; be stopped in a certain call."""

    def __init__(self, *, by_data: bool = False, draws: bool = False, stopped_at: int = 0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=D))
        self.by_data, self.draws, self.stopped_at, self.n_calls = by_data, draws, stopped_at, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.n_calls += 1
        self.mean.add_(x.detach())
        other = self.mean + 1
        if self.by_data:
            self.mean.data = other
        else:
            self.mean = other
        factor = torch.rand((), dtype=D) if self.draws else 1
        if self.n_calls == self.stopped_at:
            raise KeyboardInterrupt
        return x.sin() * factor


net = Mean()


def near(x: torch.Tensor) -> torch.Tensor:
    return net(x)


class Holder:
    """Call a function that it holds."""

    def __init__(self, func: Callable[..., Any]) -> None:
        self.func = func

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.func(x)
        return result


@pytest.mark.parametrize("by_data", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_what_was_written_to_and_then_exchanged_has_its_values_back(mode: str, by_data: bool) -> None:
    module = Mean(by_data=by_data)
    mean = module.mean
    cj.jacobian(module, torch.ones(3, dtype=D), mode=mode)
    assert module.mean is mean
    assert not mean.any()


@pytest.mark.parametrize("by_data", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_an_interrupt_in_any_evaluation_leaves_all_as_it_was(mode: str, by_data: bool) -> None:
    torch.manual_seed(0)
    generator = torch.get_rng_state()
    for stopped_at in range(1, 9):
        module = Mean(by_data=by_data, draws=mode == "reverse", stopped_at=stopped_at)
        mean = module.mean
        with suppress(KeyboardInterrupt):
            cj.jacobian(module, torch.ones(3, dtype=D), mode=mode, chunk_size=1)
        assert module.mean is mean
        assert not mean.any()
        assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize(
    "func",
    [
        near,
        lambda x: near(x),
        lambda x: torch.stack([net(row) for row in x[None]])[0],
        lambda x: (lambda y: net(y))(x),
        Holder(lambda x: net(x)),
        Holder(Holder(near).__call__),
    ],
    ids=["global", "of a global", "in a comprehension", "in a lambda", "held", "held by what is held"],
)
def test_modules_are_found_behind_functions(func: Callable[..., Any]) -> None:
    mean = net.mean
    cj.jacobian(func, torch.ones(3, dtype=D))
    cj.hessian(lambda x: func(x).sum())(torch.ones(3, dtype=D))
    assert net.mean is mean
    assert not mean.any()
