"""Short runs of a plan take the shortcut, and give what a call gives, whatever has changed since."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from torch.func import jacrev

import chunkjac as cj
from chunkjac._executor import run, shortcut
from tests.zoo import CustomSine

X = torch.linspace(-1, 1, 6)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all runs pass for short and tiny, on any machine."""
    for name in ("_SHORT_S", "_TINY_S"):
        monkeypatch.setattr(shortcut, name, 1e9)


def _planned(func: Callable[..., Any], *args: Any, **options: Any) -> cj.Plan:
    """Return a plan that was run once."""
    plan = cj.plan(func, *args, **options)
    plan.run(*args)
    return plan


def _by_the_shortcut(plan: cj.Plan, *args: Any) -> Any:
    """Return what a run gives that plans nothing."""
    with patch.object(run, "run_job", side_effect=AssertionError("the long way")):
        return plan.run(*args)


def _goes_the_long_way(plan: cj.Plan, *args: Any, **given: Any) -> Any:
    """Return what a run gives that looks at all anew."""
    with patch.object(run, "run_job", wraps=run.run_job) as looked:
        found = plan.run(*args, **given)
    assert looked.called
    return found


def _net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), *layers, nn.Linear(5, 3))


@pytest.mark.parametrize("n_outputs", [3, 400])
def test_it_gives_what_torch_gives(n_outputs: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, n_outputs))
    plan = _planned(net, X)
    for scale in (1.0, 0.5, -2.0):
        torch.testing.assert_close(_by_the_shortcut(plan, scale * X), jacrev(net)(scale * X))


def test_trees_come_out_as_ever() -> None:
    def func(x: dict[str, torch.Tensor], y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return x["a"] * y.sum(), {"sum": x["a"].sum() + x["b"].sin().sum() * y}

    args = {"a": X, "b": X[:2].double()}, torch.tensor([1.0, 2.0])
    plan = _planned(func, *args, argnums=(0, 1))
    found, expected = _by_the_shortcut(plan, *args), jacrev(func, argnums=(0, 1))(*args)
    torch.testing.assert_close(found, expected)


def test_results_are_nobody_elses_memory() -> None:
    plan = _planned(lambda x: x[:3], X)
    first = _by_the_shortcut(plan, X)
    first.fill_(7)
    torch.testing.assert_close(_by_the_shortcut(plan, X), torch.eye(3, 6))


def test_weights_of_now_are_taken() -> None:
    net = _net(nn.Tanh())
    plan = _planned(net, X)
    with torch.no_grad():
        net[0].weight.mul_(2)
    net[2].weight = nn.Parameter(torch.ones(3, 5))
    torch.testing.assert_close(_by_the_shortcut(plan, X), jacrev(net)(X))


def test_another_graph_goes_the_long_way_once() -> None:
    net = _net(nn.Tanh())
    plan = _planned(net, X)
    net[1] = nn.Softplus()
    torch.testing.assert_close(_goes_the_long_way(plan, X), jacrev(net)(X))
    torch.testing.assert_close(_by_the_shortcut(plan, X), jacrev(net)(X))
    net[1] = nn.Tanh()
    torch.testing.assert_close(_by_the_shortcut(plan, X), jacrev(net)(X))


def test_a_function_that_does_otherwise_while_calls_are_looked_at_takes_it_from_the_third_run_on() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sin() if torch.overrides._get_current_function_mode_stack() else x.mul(1).sin()

    plan = _planned(func, X)
    torch.testing.assert_close(_goes_the_long_way(plan, X), X.cos().diag())
    torch.testing.assert_close(_by_the_shortcut(plan, X), X.cos().diag())


def test_compiled_functions_take_it_too() -> None:
    net = _net(nn.Tanh())
    compiled = torch.compile(net, backend="eager")
    plan = _planned(compiled, X)
    plan.run(X)
    torch.testing.assert_close(_by_the_shortcut(plan, 2 * X), jacrev(net)(2 * X))


def test_an_interrupt_leaves_buffers_as_they_were() -> None:
    class Interrupted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(()))
            self.comes = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.comes:
                self.n = self.n + 1
                raise KeyboardInterrupt
            return x.sin()

    module = Interrupted().eval()
    plan, n = _planned(module, X), module.n
    module.comes = True
    with pytest.raises(KeyboardInterrupt):
        plan.run(X)
    assert module.n is n


def test_a_module_that_keeps_statistics_finds_them_as_they_were() -> None:
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).eval()
    x = X.view(2, 3)
    plan = _planned(net, x)
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    torch.testing.assert_close(_goes_the_long_way(plan, x), cj.jacobian(net, x))
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


def test_a_buffer_that_is_exchanged_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("n", torch.zeros(()))
            self.counts = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.counts:
                self.n = self.n + 1
            return x.sin()

    module = Counting().eval()
    plan, n = _planned(module, X), module.n
    module.counts = True
    torch.testing.assert_close(_goes_the_long_way(plan, X), X.cos().diag())
    assert module.n is n
    assert n == 0


def test_a_written_parameter_ends_it() -> None:
    scale = nn.Linear(1, 1).eval()
    writes = [False]

    def func(x: torch.Tensor) -> torch.Tensor:
        if writes[0]:
            with torch.no_grad():
                scale.bias.add_(1)
        return x.sin() * scale.weight.detach().sum()

    plan = _planned(lambda x, module: func(x), X, scale)
    writes[0] = True
    _goes_the_long_way(plan, X, scale)
    before = scale.bias.clone()
    _goes_the_long_way(plan, X, scale)
    torch.testing.assert_close(scale.bias, before, rtol=0, atol=0)


def test_dropout_that_is_switched_on_draws_what_a_call_draws() -> None:
    net = _net(nn.Dropout()).eval()
    plan = _planned(net, X)
    net.train()
    torch.manual_seed(3)
    state, found = torch.get_rng_state(), _goes_the_long_way(plan, X)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(found, cj.jacobian(net, X))


def test_a_wrong_derivative_that_comes_in_is_told() -> None:
    class Wrong(CustomSine):
        generate_vmap_rule = True

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return 2 * grad * ctx.saved_tensors[0].cos()

    sines = [torch.sin]
    plan = _planned(lambda x: sines[0](x), X.double())
    sines[0] = Wrong.apply
    with pytest.warns(cj.RungWarning, match="finite-difference"):
        found = plan.run(X.double())
    torch.testing.assert_close(found, X.double().cos().diag())


def test_no_number_is_warned_of() -> None:
    plan = _planned(lambda x: x.abs().sqrt().sum(), X)
    with pytest.warns(cj.RungWarning, match="NaN"):
        plan.run(torch.zeros(6))


def test_an_error_of_the_function_is_its_own() -> None:
    fails = [False]

    def func(x: torch.Tensor) -> torch.Tensor:
        if fails[0]:
            raise ZeroDivisionError("mine")
        return x.sin()

    plan = _planned(func, X)
    fails[0] = True
    with pytest.raises(ZeroDivisionError, match="mine"):
        plan.run(X)


@pytest.mark.parametrize("given", [{"return_report": True}, {"progress": lambda _: None}])
def test_what_is_asked_for_comes_by_the_long_way(given: dict[str, Any]) -> None:
    _goes_the_long_way(_planned(torch.sin, X), X, **given)


@pytest.mark.parametrize("options", [{"max_memory": "1MiB"}, {"chunk_size": 2}, {"verify": 1}, {"randomness": "same"}])
def test_a_limit_or_a_check_comes_by_the_long_way(options: dict[str, Any]) -> None:
    _goes_the_long_way(_planned(torch.sin, X, **options), X)


def test_other_shapes_are_refused() -> None:
    plan = _planned(torch.sin, X)
    with pytest.raises(cj.ArgumentError, match="planned"):
        plan.run(torch.ones(7))
