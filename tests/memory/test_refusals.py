"""What an error asks for is enough, whoever asks: each function here was refused again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import chunkjac as cj
from chunkjac._memory import LiveBytes, are_limited
from chunkjac._problem import is_inside_transform
from tests.zoo import CustomSine

pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")  # tight budgets are slow, which is said

MODES = ["auto", "reverse", "forward", "finite-difference"]


class Sine(CustomSine):
    """Be batched by a rule that nobody knows."""

    generate_vmap_rule = True

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * ctx.saved_tensors[0].cos()


def numbers(*shape: int) -> torch.Tensor:
    """Return numbers of both signs."""
    return torch.linspace(-1.0, 1.3, torch.Size(shape).numel(), dtype=torch.float64).sin().view(shape)


def with_a_list(x: torch.Tensor) -> torch.Tensor:
    """Use constants that are made of a list each time."""
    return (x.repeat(10) * torch.tensor([0.5] * 300, dtype=x.dtype)).sin()[torch.tensor([0, -1] * 9)]


def of_much_that_is_not_used(x: torch.Tensor) -> torch.Tensor:
    """Need more for one evaluation than for a batch of directions."""
    held = checkpoint(lambda z: z.sin() * z, numbers(200), use_reentrant=False)
    return torch.cat([Sine.apply(x).expand(16), torch.relu(held).clamp(max=0.9), numbers(64)])


FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], torch.Tensor]]] = {
    "three of one": (lambda x: (x, x, x), lambda: numbers(1)),
    "constants of a list": (with_a_list, lambda: numbers(30)),
    "a custom function": (lambda x: torch.outer(Sine.apply(x), Sine.apply(x)), lambda: numbers(9)),
    "a custom function, and much unused": (of_much_that_is_not_used, lambda: numbers(1)),
    "a small network": (
        nn.Sequential(nn.Linear(61, 4), nn.GELU(), nn.Linear(4, 2)).double().requires_grad_(False),
        lambda: numbers(61),
    ),
    "sorted": (lambda x: torch.cat([x.sort(descending=True)[0][:9], x * 2]), lambda: numbers(67)),
    "a custom function, transformed": (
        lambda x: torch.minimum(torch.fft.ifft(Sine.apply(x) + 0j, dim=-1).real, Sine.apply(x)),
        lambda: numbers(5, 12),
    ),
    "picked": (lambda x: nn.functional.embedding(torch.tensor([0, 0, -1]) % 6, x), lambda: numbers(6, 11)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_an_error_asks_for_is_enough_and_so_is_more(name: str, mode: str) -> None:
    func, point = FUNCTIONS[name]
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, point(), mode=mode, max_memory=1)
    needed = caught.value.needed_bytes
    if needed is None:  # no dry run can tell: fakes know no jvp of custom functions
        assert mode == "forward"
        assert "custom" in name
        return
    for budget in (needed, int(1.1 * needed)):
        _, report = cj.jacobian(func, point(), mode=mode, max_memory=budget, return_report=True)
        assert report.peak_bytes <= budget
        plan = cj.plan(func, point(), mode=mode, max_memory=budget)
        for _ in range(2):
            _, report = plan.run(return_report=True)
            assert report.peak_bytes <= budget


@pytest.mark.parametrize("mode", MODES[1:])
def test_what_an_error_asks_for_is_little_more_than_what_is_used(mode: str) -> None:
    func, point = FUNCTIONS["sorted"]
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, point(), mode=mode, max_memory=1)
    report = cj.jacobian(func, point(), mode=mode, chunk_size=1, return_report=True)[1]
    assert caught.value.needed_bytes <= 1.1 * report.peak_bytes


def test_a_program_makes_room_for_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second chunk is evaluated in both ways: that is not worth a refusal."""
    monkeypatch.setattr("chunkjac._programs.difference_program.evaluations_pay", lambda *_, **__: True)
    func, point = FUNCTIONS["sorted"]
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, point(), mode="finite-difference", max_memory=1)
    found = cj.jacobian(func, point(), mode="finite-difference", max_memory=caught.value.needed_bytes)
    torch.testing.assert_close(found, torch.func.jacrev(func)(point()), rtol=1e-6, atol=1e-6)


def test_constants_that_come_unseen_never_exceed_a_budget() -> None:
    """What `torch.tensor` makes is there before anybody is told: room is left for it from the second time on."""
    func, point = FUNCTIONS["constants of a list"]
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, point(), mode="forward", max_memory=1)
    for budget in range(caught.value.needed_bytes, 2 * caught.value.needed_bytes, 1999):
        report = cj.jacobian(func, point(), mode="forward", max_memory=budget, return_report=True)[1]
        assert report.peak_bytes <= budget


def test_where_memory_ends_on_the_way_to_another_rung_that_is_no_error_of_the_function() -> None:
    norm, x = nn.BatchNorm1d(6, dtype=torch.float64), numbers(6)  # which torch's forward mode cannot run in training

    def func(x: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = norm(torch.stack([x, x.sin(), x * x, x.cos()]))
        return torch.outer(rows[1], rows[0])

    wanted = cj.jacobian(func, x, mode="reverse")
    for budget_bytes in range(2000, 30000, 500):
        try:
            found = cj.jacobian(func, x, mode="forward", max_memory=budget_bytes)
        except cj.BudgetError:
            continue
        assert torch.allclose(found, wanted)


def test_a_rung_that_fails_where_nobody_counts_is_not_left_uncounted() -> None:
    x = numbers(40)

    def func(x: torch.Tensor) -> torch.Tensor:
        if is_inside_transform((x,)) and not are_limited():  # as `deepcopy` does in jvp, say
            raise RuntimeError("not here")
        for _ in range(9):
            x = x.sin() * x  # which double backward keeps
        return torch.cat([x, x])

    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, x, mode="forward", max_memory=1)
    assert caught.value.needed_bytes is not None
    with LiveBytes(x.device) as outside:
        found = cj.jacobian(func, x, mode="forward", max_memory=caught.value.needed_bytes)
    assert outside.highest_bytes <= caught.value.needed_bytes
    assert torch.allclose(found, cj.jacobian(func, x, mode="reverse"))


def test_what_a_check_has_left_alive_counts_from_then_on() -> None:
    x = numbers(40)

    def func(x: torch.Tensor) -> torch.Tensor:
        for _ in range(6):
            x = Sine.apply(x) * x  # without a forward derivative: the check goes to double backward
        return x

    n_made = 0
    for budget_bytes in range(20_000, 60_000, 8000):
        with LiveBytes(x.device) as outside, suppress(cj.BudgetError):
            cj.jacobian(func, x, mode="forward", max_memory=budget_bytes)
            n_made += 1
        assert outside.highest_bytes <= budget_bytes
    assert n_made


def test_what_an_operation_without_a_meta_kernel_needs_is_what_is_asked_for() -> None:
    """A gated unit's tangent is as large as its value."""

    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.glu(torch.cat([x, x.sin()]), 0) + x

    x = torch.arange(9.0, dtype=torch.float64).view(3, 3)
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, x, mode="forward", max_memory=1)
    _, report = cj.jacobian(func, x, mode="forward", max_memory=caught.value.needed_bytes, return_report=True)
    assert report.plan.mode == "forward"
    assert report.peak_bytes <= caught.value.needed_bytes


def test_a_plan_keeps_no_graph_of_differences_where_there_is_no_room_for_one() -> None:
    """Parameters that require grad make one in the first evaluation, which may ask whether it can."""
    net = nn.Sequential(nn.Linear(8, 2**12), *[nn.Tanh() for _ in range(20)], nn.Unflatten(-1, (4, -1)))

    def func(x: torch.Tensor) -> torch.Tensor:
        return net(x).mean(-1)

    x = torch.ones(1, 8)
    roomy = cj.plan(func, x, mode="finite-difference", chunk_size=1)
    budget = roomy.predicted_peak_bytes // 2
    found, report = cj.jacobian(func, x, mode="finite-difference", max_memory=budget, return_report=True)
    assert report.peak_bytes <= budget
    plan = cj.plan(func, x, mode="finite-difference", max_memory=budget)
    assert plan.predicted_peak_bytes <= budget
    assert torch.equal(plan.run(), found)


def test_a_limit_that_makes_days_of_minutes_is_refused() -> None:
    def deep(x: torch.Tensor) -> torch.Tensor:
        for _ in range(100):
            x = x.sin()
        return x.sum()

    x = torch.ones(4096, dtype=torch.float64)
    with pytest.raises(cj.BudgetError, match="forward mode takes 4096, and may take many times as long") as told:
        cj.jacobian(deep, x, max_memory="1MiB")
    needed_bytes = told.value.needed_bytes
    assert needed_bytes is not None
    _, report = cj.jacobian(deep, x, max_memory=needed_bytes, return_report=True)
    assert report.plan.mode == "reverse"
    assert report.peak_bytes <= needed_bytes
