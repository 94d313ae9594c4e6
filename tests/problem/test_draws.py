"""What a function draws is known from its own operations, and drawn again; other threads' numbers stay theirs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import chunkjac as cj

D = torch.float64
MODES = ("reverse", "forward", "finite-difference", "auto")
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"max_memory": "32MiB"}, {"return_report": True})
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")


class Neighbour:
    """Draw numbers in another thread, whenever that is asked for."""

    def __init__(self) -> None:
        self.numbers: list[tuple[float, ...]] = []

    def draw(self) -> None:
        thread = threading.Thread(target=lambda: self.numbers.append(tuple(torch.rand(4).tolist())))
        thread.start()
        thread.join()


@contextmanager
def as_found() -> Iterator[None]:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


def jacobian_of(func: Callable[..., Any], x: torch.Tensor, **options: Any) -> torch.Tensor:
    found = cj.jacobian(func, x, **options)
    jacobian: torch.Tensor = found[0] if isinstance(found, tuple) else found
    return jacobian


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_no_number_of_another_thread_comes_twice_where_the_function_draws_none(mode: str, options: Any) -> None:
    net, x, neighbour = (
        nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5)).to(D),
        torch.ones(6, dtype=D),
        Neighbour(),
    )

    def func(x: torch.Tensor) -> torch.Tensor:
        neighbour.draw()
        y = net(x)
        neighbour.draw()
        return y

    for _ in range(3):
        found = jacobian_of(func, x, mode=mode, chunk_size=2, **options)
        assert torch.allclose(found, torch.func.jacrev(net)(x), atol=1e-7)
    assert len(neighbour.numbers) >= 6
    assert len(set(neighbour.numbers)) == len(neighbour.numbers)


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_one_jacobian_holds_one_mask_while_another_thread_draws(mode: str) -> None:
    neighbour = Neighbour()

    def func(x: torch.Tensor) -> torch.Tensor:
        neighbour.draw()
        y = nn.functional.dropout(torch.ones(32, dtype=D), 0.5)
        neighbour.draw()
        return y * nn.functional.dropout(torch.ones(32, dtype=D), 0.3) * x.sum()

    found = jacobian_of(func, torch.ones(4, dtype=D), mode=mode, chunk_size=1, randomness="same")
    assert len(set(neighbour.numbers)) == len(neighbour.numbers)
    assert torch.allclose(found, found[:, :1].expand_as(found), atol=1e-6)
    assert 0 < int((found[:, 0] == 0).sum()) < 32


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_a_function_that_sets_the_seed_draws_what_it_draws_outside(mode: str, options: Any) -> None:
    x = torch.ones(5, dtype=D)

    def seeded(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return x * torch.rand(5, dtype=D) + torch.rand_like(x.detach())

    torch.manual_seed(7)
    wanted = torch.rand(5, dtype=D).diag()
    with as_found():
        found = jacobian_of(seeded, x, mode=mode, chunk_size=2, randomness="same", **options)
    assert torch.allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_numbers_before_and_after_a_fork_are_those_drawn_outside(mode: str, options: Any) -> None:
    x = torch.ones(5, dtype=D)

    def func(x: torch.Tensor) -> torch.Tensor:
        before = torch.rand(5, dtype=D)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            inside = torch.rand(5, dtype=D)
        return x * before * inside * torch.randn_like(x.detach())

    with as_found():
        wanted = func(x).diag()
        torch.manual_seed(3)
        found = jacobian_of(func, x, mode=mode, chunk_size=2, randomness="same", **options)
    assert torch.allclose(found, wanted, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["rand", "rand_like", "randperm", "normal", "bernoulli", "dropout", "rrelu", "multinomial"]
)
def test_each_way_of_drawing_gives_what_it_gives_outside(name: str) -> None:
    ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "rand": lambda x: torch.rand(6, dtype=D) + torch.randint(1, 9, (6,)),
        "rand_like": lambda x: torch.rand_like(x) + torch.randn_like(x) + torch.randint_like(x, 2, 9),
        "randperm": lambda x: torch.randperm(6).to(D),
        "normal": lambda x: (
            torch.empty_like(x).normal_() + torch.normal(torch.ones_like(x), 1.0) + torch.empty_like(x).exponential_()
        ),
        "bernoulli": lambda x: torch.bernoulli(torch.full_like(x, 0.5)) + torch.empty_like(x).bernoulli_(0.5),
        "dropout": lambda x: torch.native_dropout(torch.ones_like(x), 0.5, True)[0],
        "rrelu": lambda x: nn.functional.rrelu(-torch.ones_like(x), training=True),
        "multinomial": lambda x: torch.multinomial(torch.ones_like(x), 6).to(D),
    }

    def func(x: torch.Tensor) -> torch.Tensor:
        return x * ways[name](x.detach())

    x = torch.ones(6, dtype=D)
    with as_found():
        wanted = ways[name](x).diag()
        torch.manual_seed(3)
        for mode in ("finite-difference", "reverse"):
            options = {"batching": "loop"} if mode == "finite-difference" else {}
            found = jacobian_of(func, x, mode=mode, randomness="same", **options)
            assert torch.allclose(found, wanted, atol=1e-6)


def test_dropout_within_a_checkpoint_has_one_mask_in_both_backward_passes() -> None:
    x = torch.ones(16, dtype=D, requires_grad=True)

    def func(x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.dropout(x, 0.2)

        def inner(y: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(y**2, 0.5)

        return checkpoint(inner, y, use_reentrant=False)

    with as_found():
        found = cj.jacobian(func, x, mode="reverse", create_graph=True)
        (grad,) = torch.autograd.grad(found.sum(), x)
    assert torch.allclose(found.detach().diag(), grad)  # 2 m x and 2 m, at x = 1
    assert 0 < int((grad == 0).sum()) < 16


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_function_that_fails_after_it_has_drawn_leaves_the_generator(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        nn.functional.dropout(x, 0.5)
        raise ZeroDivisionError

    with as_found(), pytest.raises(ZeroDivisionError):
        cj.jacobian(func, torch.ones(3, dtype=D), mode=mode)


def test_a_function_that_draws_nothing_is_evaluated_no_more_often_for_that() -> None:
    n_calls = 0

    def func(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return x.sin()

    cj.jacobian(func, torch.ones(3, dtype=D), mode="reverse")
    assert n_calls == 1


@pytest.mark.parametrize("forks", [False, True])
def test_different_numbers_for_each_direction_leave_the_generator_alone(forks: bool) -> None:
    neighbour = Neighbour()

    def func(x: torch.Tensor) -> torch.Tensor:
        with torch.random.fork_rng(devices=[], enabled=forks):
            if forks:
                torch.manual_seed(7)
                torch.rand(3)
            else:
                neighbour.draw()
        return nn.functional.dropout(x.sum() * torch.ones(64, dtype=D), 0.5)

    found = cj.jacobian(func, torch.ones(4, dtype=D), mode="forward", randomness="different", chunk_size=2)
    assert len({tuple(column.tolist()) for column in found.T}) == 4
    assert len(set(neighbour.numbers)) == len(neighbour.numbers)


def test_a_function_that_sets_the_seed_is_no_random_one() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(7)
        return x * torch.rand(5, dtype=D)

    torch.manual_seed(7)
    wanted = torch.rand(5, dtype=D).diag()
    with as_found():
        found = cj.jacobian(func, torch.ones(5, dtype=D), mode="finite-difference")
    assert torch.allclose(found, wanted, atol=1e-7)
