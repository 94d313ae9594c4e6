"""A call leaves buffers, flags, generators, grad mode and the user's tensors as they were."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj

D = torch.float64
MODES = ("reverse", "forward", "finite-difference", "auto")
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")


def state_of(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Counter(nn.Module):
    """Keep everything that a module may keep: a buffer written to, one replaced, a tensor of no module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("written", torch.zeros(3, dtype=D))
        self.register_buffer("replaced", torch.zeros((), dtype=D))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.written[1:].add_(1)
        self.replaced = self.replaced + 1
        return x.sin()


@pytest.mark.parametrize("mode", MODES)
def test_the_statistics_of_batch_norm_stay(mode: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(D).train()
    net(torch.randn(6, 3, dtype=D))
    before = state_of(net)
    flags = [p.requires_grad for p in net.parameters()]
    cj.jacobian(net, torch.randn(6, 3, dtype=D), mode=mode)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    assert net.training


@pytest.mark.parametrize("mode", MODES)
def test_buffers_written_to_and_replaced_are_given_back(mode: str) -> None:
    counter = Counter()
    written, replaced = counter.written, counter.replaced
    cj.jacobian(lambda x: counter(x), torch.ones(3, dtype=D), mode=mode)
    assert counter.written is written
    assert counter.replaced is replaced
    assert not written.any()
    assert not replaced.any()


@pytest.mark.parametrize("mode", MODES)
def test_captured_tensors_and_other_arguments_are_given_back(mode: str) -> None:
    captured, other = torch.ones(4, dtype=D), torch.ones(3, dtype=D)

    def func(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        captured[:2].mul_(0.5)
        captured.add_(1)
        y.zero_()
        return x.sin()

    x = torch.linspace(0, 1, 3, dtype=D)
    found = cj.jacobian(func, x, other, mode=mode)
    assert torch.allclose(found, x.cos().diag(), atol=1e-8)
    assert torch.equal(captured, torch.ones(4, dtype=D))
    assert torch.equal(other, torch.ones(3, dtype=D))


@pytest.mark.parametrize("mode", MODES)
def test_an_input_that_is_written_to_is_an_error_and_given_back(mode: str) -> None:
    x = torch.ones(3, dtype=D)
    with pytest.raises(cj.FunctionError, match="in place"):
        cj.jacobian(lambda x: x.mul_(2), x, mode=mode)
    assert torch.equal(x, torch.ones(3, dtype=D))


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_generators_and_grad_mode_stay_also_when_the_function_fails(mode: str, fails: bool) -> None:
    torch.manual_seed(3)
    before, x = torch.get_rng_state(), torch.randn(3, dtype=D, requires_grad=True)
    torch.set_rng_state(before)

    def func(x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.dropout(x, 0.5) + x
        if fails:
            raise ZeroDivisionError
        return y

    for grad_mode in (True, False):
        with torch.set_grad_enabled(grad_mode):
            try:
                cj.jacobian(func, x, mode=mode, randomness="same")
            except ZeroDivisionError:
                assert fails
            assert torch.is_grad_enabled() == grad_mode
    assert torch.equal(torch.get_rng_state(), before)
    assert x.requires_grad
    assert x.grad is None


def test_an_auxiliary_result_keeps_what_the_function_made_of_a_buffer() -> None:
    norm = nn.BatchNorm1d(2).to(D).train()
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]], dtype=D)
    _, mean = cj.jacobian(lambda x: (norm(x), norm.running_mean), x, has_aux=True, mode="reverse")
    assert torch.allclose(mean, torch.tensor([0.2, 0.4], dtype=D))
    assert not norm.running_mean.any()


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_every_chunk_sees_the_same_mask(mode: str, chunk_size: int | None) -> None:
    """The mask is the one that a plain call would draw."""
    x = torch.ones(12, dtype=D)

    def func(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x**2, 0.5)

    torch.manual_seed(5)
    state = torch.get_rng_state()
    mask = func(x)
    torch.set_rng_state(state)
    found = cj.jacobian(func, x, mode=mode, chunk_size=chunk_size, randomness="same")
    assert torch.allclose(found, torch.diag(2 * mask), atol=1e-8)
    assert 0 < int((mask == 0).sum()) < 12


def test_different_randomness_draws_for_each_direction() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x.sum() * torch.ones(64, dtype=D), 0.5)

    for chunk_size in (2, None):
        J = cj.jacobian(func, torch.ones(4, dtype=D), mode="forward", randomness="different", chunk_size=chunk_size)
        assert len({tuple(column.tolist()) for column in J.T}) == 4  # also across chunks
        assert set(J.unique().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("mode", ["reverse", "auto", "finite-difference"])
def test_different_randomness_needs_forward_mode(mode: str) -> None:
    with pytest.raises(cj.ArgumentError, match="randomness='different' needs mode='forward'"):
        cj.jacobian(torch.sin, torch.ones(2), mode=mode, randomness="different")


def test_random_numbers_are_an_error_unless_allowed() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, 0.5)

    with pytest.raises(cj.FunctionError, match="randomness='same'"):
        cj.jacobian(func, torch.ones(9), mode="forward")
    with pytest.raises(cj.FunctionError, match="different answers"):
        cj.jacobian(func, torch.ones(9), mode="finite-difference")
    J: Any = cj.jacobian(func, torch.ones(9), mode="auto")
    assert set(J.unique().tolist()) <= {0.0, 2.0}


def test_a_generator_of_the_functions_own_is_noticed() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(cj.FunctionError, match="random numbers"):
        cj.jacobian(lambda x: x * torch.rand(3, generator=generator), torch.ones(3), mode="forward", chunk_size=1)


def test_a_table_that_grows_by_a_row_at_each_evaluation_is_given_back() -> None:
    table, n_calls = torch.zeros(9, dtype=D), 0

    def func(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        table[n_calls] = x.detach().sum()
        n_calls += 1
        return x.sin()

    cj.jacobian(func, torch.ones(3, dtype=D), mode="finite-difference", batching="loop")
    assert n_calls == 2 + 6 + 1  # once more, to see what each evaluation changes
    assert not table.any()


@pytest.mark.parametrize("mode", MODES)
def test_a_module_is_as_it_was_also_when_the_budget_is_too_small(mode: str) -> None:
    counter = Counter()
    attributes, replaced = {**vars(counter)}, counter.replaced
    with pytest.raises(cj.BudgetError):
        cj.jacobian(counter, torch.ones(3, dtype=D), mode=mode, max_memory=20)
    cj.plan(counter, torch.ones(3, dtype=D), mode=mode)
    assert counter.replaced is replaced
    assert vars(counter).keys() == attributes.keys()
    assert all(vars(counter)[name] is value for name, value in attributes.items())


def test_a_function_that_cannot_be_differentiated_at_all_raises_its_own_error() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            raise ZeroDivisionError("mine")
        return x * 2

    with pytest.raises(ZeroDivisionError, match="mine"):
        cj.jacobian(func, torch.ones(3), mode="reverse")


@pytest.mark.parametrize("max_memory", [None, "8MiB"])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_that_a_call_was_given_waits_for_the_garbage_collector(mode: str, max_memory: str | None) -> None:
    net = nn.Sequential(nn.Linear(60, 200), nn.Tanh(), nn.Linear(200, 80))
    x = torch.randn(60)
    cj.jacobian(net, x.clone(), mode=mode, max_memory=max_memory)  # the first of a process imports much, in circles
    known, is_on = weakref.ref(x), gc.isenabled()
    gc.disable()
    try:
        cj.jacobian(net, x, mode=mode, max_memory=max_memory)
        del x
        assert known() is None
    finally:
        if is_on:
            gc.enable()


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
def test_a_refused_call_leaves_nothing_behind(mode: str) -> None:
    net, x = nn.Sequential(nn.Linear(30, 40), nn.Tanh(), nn.Linear(40, 20)), torch.randn(30)

    def n_alive() -> int:
        for _ in range(3):
            with pytest.raises(cj.BudgetError):
                cj.jacobian(net, x, mode=mode, max_memory=100)
        gc.collect()
        return len(gc.get_objects())

    n_alive()
    n_before = n_alive()
    assert n_alive() <= n_before + 2
