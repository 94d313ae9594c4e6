"""Functions that keep memory: noticed by the level between chunks, and never over the limit."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from tests.zoo import Stateless

CPU = torch.device("cpu")
MODES = ("forward", "finite-difference")  # reverse mode calls the function once


class Collector:
    """Be ``x -> tanh(w x)``, and keep each result."""

    def __init__(self, n_calls: int | None = None) -> None:
        self.weight = torch.linspace(-1, 1, 400 * 100).reshape(400, 100)
        self.kept: list[torch.Tensor] = []
        self.n_calls = n_calls

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(self.weight @ x)
        if self.n_calls is None or len(self.kept) < self.n_calls:
            self.kept.append(y)
        return y * 2


def run(func: Callable[..., Any], **options: Any) -> tuple[torch.Tensor, cj.Report, int, list[str]]:
    """Return Jacobian, report, the peak that a tracker outside saw, and the warnings."""
    x = torch.zeros(100)
    with LiveBytes(CPU) as tracker, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found, report = cj.jacobian(func, x, return_report=True, **options)
    said = [warning for warning in seen if "func keeps memory" in str(warning.message)]
    assert all(warning.filename == __file__ for warning in said)  # it points to the caller
    return found, report, tracker.peak_bytes, [str(warning.message) for warning in said]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("is_limited", [False, True])
def test_a_list_that_collects_tensors_is_noticed(mode: str, is_limited: bool) -> None:
    limit_bytes = {"forward": 400_000, "finite-difference": 800_000}[mode]  # which all chunks together exceed
    options: dict[str, Any] = {"max_memory": limit_bytes} if is_limited else {"chunk_size": 10}
    func = Collector()
    found, report, peak_bytes, said = run(func, mode=mode, **options)
    assert torch.allclose(found, 2 * func.weight, atol=1e-3)
    assert len(report.chunk_sizes) > 1
    assert report.growth_bytes > 0
    assert len(said) == 1
    assert "func keeps memory" in said[0]
    assert "kept by func" in str(report)
    assert peak_bytes == report.peak_bytes <= options.get("max_memory", peak_bytes)


@pytest.mark.parametrize("mode", MODES)
def test_growth_never_exceeds_the_limit_and_is_named_in_the_error(mode: str) -> None:
    planned = cj.plan(Collector(n_calls=0), torch.zeros(100), mode=mode, chunk_size=10, max_memory="1MiB")
    sound = planned.predicted_peak_bytes
    func, x = Collector(), torch.zeros(100)
    limit_bytes = sound + (-1000 if mode == "forward" else 60_000)  # which trials of batches leave something of
    with LiveBytes(CPU) as tracker, pytest.raises(cj.BudgetError, match=r"func keeps memory: .* more were alive"):
        cj.jacobian(func, x, mode=mode, max_memory=limit_bytes)
    assert tracker.peak_bytes <= limit_bytes
    assert func.kept


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_once_is_a_cache_and_no_growth(mode: str) -> None:
    """Two calls: of the prologue and the first chunk, or both of the prologue."""
    _, report, peak_bytes, said = run(Collector(n_calls=2), mode=mode, chunk_size=10)
    assert not said
    assert report.growth_bytes == 0
    assert peak_bytes == report.peak_bytes


def test_garbage_in_cycles_is_no_growth_and_is_collected_once(monkeypatch: pytest.MonkeyPatch) -> None:
    n_collected = 0
    collect = gc.collect

    def count() -> int:
        nonlocal n_collected
        n_collected += 1
        return collect()

    def func(x: torch.Tensor) -> torch.Tensor:
        cycle: list[Any] = [x.sin()]
        cycle.append(cycle)
        return cycle[0] * 2

    monkeypatch.setattr("chunkjac._memory.growth.gc.collect", count)
    gc.disable()  # it would come by itself now and then
    try:
        _, report, _, said = run(func, mode="forward", chunk_size=2)
    finally:
        gc.enable()
    assert not said
    assert report.growth_bytes == 0
    assert n_collected == 1  # 48 chunks could have been, at 50-150 ms each


def test_garbage_in_cycles_never_exceeds_the_limit() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        cycle: list[Any] = [x.sin()]
        cycle.append(cycle)
        return cycle[0] * 2

    least = cj.plan(lambda x: x.sin() * 2, torch.zeros(100), mode="forward", chunk_size=10).predicted_peak_bytes
    found, _, peak_bytes, _ = run(func, mode="forward", max_memory=3 * least)
    assert peak_bytes <= 3 * least
    assert torch.equal(found, 2 * torch.eye(100))


def test_what_a_backward_pass_keeps_is_noticed() -> None:
    kept = []

    class Greedy(Stateless):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            kept.append(grad * 1)
            return grad * 2

    found, report, _, said = run(Greedy.apply, mode="reverse", chunk_size=10)
    assert torch.equal(found, 2 * torch.eye(100))
    assert report.growth_bytes >= 8 * 10 * 100 * 4  # a block in each of eight chunks, at least
    assert any("func keeps memory" in text for text in said)


def test_a_sound_function_is_measured_in_two_chunks_and_seldom_again() -> None:
    func = Collector(n_calls=0)
    n_tracked = 0

    class Counter(LiveBytes):
        def __torch_dispatch__(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal n_tracked
            n_tracked += str(args[0]) == "aten.tanh.default"
            return super().__torch_dispatch__(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("chunkjac._planner.job.LiveBytes", Counter)
        cj.jacobian(func, torch.zeros(100), mode="forward", chunk_size=10, max_memory="1GiB", return_report=True)
    assert n_tracked == 1 + 2 + 1  # the prologue, two chunks, and the tenth


@pytest.mark.parametrize(("first", "every"), [(0, 2), (12, 1)])
def test_a_function_that_keeps_tensors_now_and_then_or_late_is_noticed(first: int, every: int) -> None:
    kept = []
    n_calls = 0

    def func(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        y = torch.ones(5000) * x[0]
        if n_calls >= first and n_calls % every == 0:
            kept.append(y)
        n_calls += 1
        return x * y[:100]

    _, report, _, said = run(func, mode="forward", chunk_size=2)
    assert report.growth_bytes > 0
    assert said
