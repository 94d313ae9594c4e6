"""Blocks one by one: the same as the whole, computed when asked for, and nothing left behind."""

from __future__ import annotations

import gc
import weakref
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes

MODES = ("reverse", "forward", "finite-difference")
D = torch.float64


def _net(n_in: int = 12, n_out: int = 9) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, 20), nn.Tanh(), nn.Linear(20, n_out)).to(D).requires_grad_(False)


def _point(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 50])
def test_blocks_side_by_side_are_the_jacobian(mode: str, chunk_size: int | None) -> None:
    net, x = _net(), _point(12)
    expected = torch.func.jacrev(net)(x)
    if mode != "reverse":
        expected = expected.T
    done = 0
    for block in cj.blocks(net, x, mode=mode, chunk_size=chunk_size):
        assert block.axis == ("output" if mode == "reverse" else "input")
        assert block.slice.start == done
        torch.testing.assert_close(block.values, expected[block.slice], rtol=0, atol=1e-7)
        done = block.slice.stop
    assert done == len(expected)


def test_values_are_trees_like_those_of_the_other_end() -> None:
    args = {"a": _point(2), "b": _point(3)}, _point(3)
    found = [*cj.blocks(lambda p, y: (p["a"].sum() * y, p["b"].sum()), *args, argnums=(0, 1), mode="reverse")]
    assert [*found[0].values[0]] == ["a", "b"]
    assert found[0].values[1].shape[1:] == (3,)


def test_nothing_is_computed_before_it_is_asked_for_nor_after_the_last() -> None:
    calls: list[int] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return x.sin()

    stream = cj.blocks(func, _point(10), mode="forward", chunk_size=2)
    assert not calls
    taken = [block.slice.stop for block in islice(stream, 2)]
    assert taken == [2, 4]
    n_calls = len(calls)
    stream.close()  # type: ignore[attr-defined]
    assert len(calls) == n_calls
    assert [*stream] == []


def test_bad_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(cj.ArgumentError, match="mode"):
        cj.blocks(torch.sin, _point(3), mode="backward")


@pytest.mark.parametrize("n_taken", [0, 1, 2, 99])
def test_what_the_function_changes_is_put_back_however_many_are_taken(n_taken: int) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(D)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    stream = cj.blocks(net, _point(5, 4), mode="reverse", chunk_size=4)
    for _ in islice(stream, n_taken):
        pass
    del stream
    gc.collect()
    torch.testing.assert_close(dict(net.state_dict()), before)


def test_random_numbers_of_the_loop_are_those_that_it_would_draw_without() -> None:
    def drawn(stream: Any) -> list[float]:
        torch.manual_seed(3)
        return [torch.rand(()).item() for _ in stream] + [torch.rand(()).item()]

    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rand(x.shape, dtype=D)

    stream = cj.blocks(noisy, _point(10), mode="forward", chunk_size=3, randomness="same")
    assert drawn(stream) == drawn(range(4))


def test_random_numbers_that_were_drawn_before_a_loop_was_left_are_not_drawn_again() -> None:
    torch.manual_seed(3)
    for _ in cj.blocks(torch.sin, _point(10), mode="reverse", chunk_size=3):
        drawn = torch.rand(())
        break
    gc.collect()
    torch.manual_seed(3)
    torch.rand(())
    expected = torch.rand(())
    torch.manual_seed(3)
    stream = cj.blocks(torch.sin, _point(10), mode="reverse", chunk_size=3)
    next(stream)
    assert torch.equal(torch.rand(()), drawn)
    stream.close()  # type: ignore[attr-defined]
    assert torch.equal(torch.rand(()), expected)


def test_blocks_of_random_functions_are_those_of_the_whole() -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x * torch.rand(x.shape, dtype=D)

    torch.manual_seed(5)
    expected = cj.jacobian(noisy, _point(10), mode="forward", chunk_size=3, randomness="same")
    torch.manual_seed(5)
    rows = []
    for block in cj.blocks(noisy, _point(10), mode="forward", chunk_size=3, randomness="same"):
        torch.rand(7)
        rows.append(block.values.clone())
    torch.testing.assert_close(torch.cat(rows).T, expected)


@pytest.mark.parametrize("mode", MODES)
def test_memory_is_bounded_though_the_last_block_is_still_in_hand(mode: str) -> None:
    net, x = _net(600, 700), _point(600)
    limit_bytes = 600_000
    total = 0.0
    with LiveBytes(torch.device("cpu")) as live:
        for block in cj.blocks(net, x, mode=mode, max_memory=limit_bytes):
            total += block.values.square().sum().item()
    assert live.peak_bytes <= 1.3 * limit_bytes  # with what the loop makes of a block
    assert total == pytest.approx(torch.func.jacrev(net)(x).square().sum().item(), rel=1e-6)


def test_a_loop_that_is_left_holds_nothing() -> None:
    net, x = _net(), _point(12)
    for block in cj.blocks(net, x, mode="reverse", chunk_size=2):
        kept = weakref.ref(block.values)
        break
    del block
    gc.collect()
    assert kept() is None


def test_an_error_in_the_loop_is_the_loops() -> None:
    def divide() -> None:
        for block in cj.blocks(_net(), _point(12), chunk_size=2):
            _ = block.slice.start / 0

    with pytest.raises(ZeroDivisionError):
        divide()
    torch.testing.assert_close(cj.jacobian(torch.sin, _point(3)), torch.diag(_point(3).cos()))


# Loops beside one another


def _norm() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(D), _point(5, 4)


def _state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


class Replacing(nn.Module):
    """Replace a buffer at each evaluation, and write to a tensor that no module knows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=D))
        self.table = torch.ones(6, dtype=D)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = self.seen + 1
        self.table.copy_(torch.arange(6, dtype=D))
        return x.sin() * self.table.clone()


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("first", MODES)
@pytest.mark.parametrize("second", MODES)
def test_loops_that_take_turns_leave_a_module_as_it_was(first: str, second: str) -> None:
    net, x = _norm()
    before = _state(net)
    for _ in zip(cj.blocks(net, x, mode=first, chunk_size=7), cj.blocks(net, x, mode=second, chunk_size=7)):
        torch.testing.assert_close(_state(net), before, rtol=0, atol=0)
    gc.collect()
    torch.testing.assert_close(_state(net), before, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["reverse", "finite-difference"])
def test_a_loop_that_is_left_before_another_leaves_a_module_as_it_was(mode: str) -> None:
    replacing, x = Replacing(), _point(6)
    seen, expected = replacing.seen, torch.diag(x.cos() * torch.arange(6, dtype=D))
    one, other = (cj.blocks(replacing, x, mode=mode, chunk_size=2) for _ in range(2))
    rows = [next(other).values.clone()]
    next(one)
    rows.append(next(other).values.clone())
    one.close()  # type: ignore[attr-defined]
    rows += [block.values.clone() for block in other]
    torch.testing.assert_close(torch.cat(rows), expected, rtol=0, atol=1e-7)
    assert replacing.seen is seen
    assert torch.equal(replacing.table, torch.ones(6, dtype=D))


@pytest.mark.parametrize("mode", ["reverse", "finite-difference"])
def test_what_a_loop_changes_in_a_module_stays_and_does_not_reach_the_blocks(mode: str) -> None:
    replacing, x = Replacing(), _point(6)
    expected = torch.diag(x.cos() * torch.arange(6, dtype=D))
    for i, block in enumerate(cj.blocks(replacing, x, mode=mode, chunk_size=2)):
        torch.testing.assert_close(block.values, expected[block.slice], rtol=0, atol=1e-7)
        assert not replacing.seen.any() or i
        replacing.seen, new = torch.full((), i + 10.0, dtype=D), torch.full((6,), i + 20.0, dtype=D)
        replacing.table.copy_(new)
    assert replacing.seen == 12
    assert torch.equal(replacing.table, new)
