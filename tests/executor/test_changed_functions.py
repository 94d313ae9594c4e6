"""A plan gives what the function is now, whatever has changed between two of its runs."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

import chunkjac as cj
from tests.changes import CHANGES, SOURCES, Net, Patch, Weighted, sources_of

D = torch.float64
MODES = ("reverse", "forward", "finite-difference", "reverse, unwatched", "reverse, short")
W = torch.linspace(-1, 1, 8 * 6, dtype=D).reshape(8, 6)
X = torch.linspace(-0.5, 0.7, 6, dtype=D)


@pytest.fixture(autouse=True)
def programs(monkeypatch: Patch) -> None:
    """Let programs be used where they are no faster, as in functions as small as these."""
    monkeypatch.setattr("chunkjac._programs.records.SHORT_S", -1.0)
    monkeypatch.setattr("chunkjac._programs.difference_program.evaluations_pay", lambda *_, **__: True)
    monkeypatch.setattr("chunkjac._executor.shortcut._SHORT_S", 1e9)
    monkeypatch.setattr("chunkjac._executor.shortcut._TINY_S", 1e9)


def _each_in_a_mode(names: Iterable[str]) -> list[Any]:
    """Return names with modes: in turns by default, each in all of them in the long tests."""
    return [
        pytest.param(name, mode, marks=() if i % len(MODES) == j else pytest.mark.long)
        for i, name in enumerate(names)
        for j, mode in enumerate(MODES)
    ]


def _follows(func: Callable[..., torch.Tensor], change: Callable[[], object], mode: str, **options: Any) -> None:
    """Run a plan until a program makes its blocks, change the function, and run it again."""
    name, _, unwatched = mode.partition(", ")
    chunks = {} if unwatched == "short" else {"chunk_size": 2}  # without, short runs are made with nothing planned
    planned = cj.plan(func, X, mode=name, **chunks, **options)
    for _ in range(4):
        made = planned.run(X, return_report=not unwatched)  # who wants a report has memory watched
    assert unwatched or name == "finite-difference" or made[1].plan.rung == "linear program"
    before = made if unwatched else made[0]
    change()
    expected = _row_by_row(func)
    tolerance = 1e-6 if mode == "finite-difference" else 1e-11
    for _ in range(2):
        torch.testing.assert_close(planned.run(X), expected, rtol=tolerance, atol=tolerance)
    assert not torch.equal(before, expected)


def _row_by_row(func: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Return the Jacobian by plain backward passes."""
    x = X.clone().requires_grad_()
    return torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0] for one in func(x)])


@pytest.mark.parametrize(("source", "mode"), _each_in_a_mode(SOURCES))
def test_a_number_is_that_of_now_wherever_it_comes_from(
    source: str, mode: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    read, change = sources_of(monkeypatch, tmp_path)[source]

    def func(x: torch.Tensor) -> torch.Tensor:
        return read() * torch.tanh(W @ x)

    contextvars.copy_context().run(_follows, func, lambda: change(2.0), mode)


@pytest.mark.parametrize(("change", "mode"), _each_in_a_mode(CHANGES))
def test_a_network_is_that_of_now(change: str, mode: str, monkeypatch: Patch) -> None:
    net = Net()
    if mode == "finite-difference" and change in ("one weight a little", "a method of tensors"):
        return  # less than the error of differences; and products of tensors are what differences are made of
    _follows(net, lambda: CHANGES[change](net, monkeypatch), mode)


@pytest.mark.parametrize("mode", MODES)
def test_what_changes_for_all_modules_is_followed(mode: str) -> None:
    hooks: list[Any] = []
    try:
        register = torch.nn.modules.module.register_module_forward_hook
        _follows(Net(), lambda: hooks.append(register(lambda m, x, y: 2 * y)), mode)
    finally:
        for hook in hooks:
            hook.remove()


def test_a_backward_formula_is_that_of_now(monkeypatch: Patch) -> None:
    # The formula is wrong on purpose, so nothing is to be checked.
    change = lambda: monkeypatch.setattr(Weighted, "factor", 2.0)  # noqa: E731
    _follows(lambda x: Weighted.apply(torch.tanh(W @ x)), change, "reverse", verify=0)


def test_a_backward_hook_is_followed() -> None:
    net = Net()
    change = lambda: net.act.register_full_backward_hook(lambda m, g, _: (2 * g[0],))  # noqa: E731
    _follows(net, change, "reverse", verify=0)
