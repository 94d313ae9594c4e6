"""What autograd's graph saves tells what its backward passes do, or is not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import chunkjac as cj
from chunkjac._programs import recording
from chunkjac._programs.graph.graph import run_all
from chunkjac._programs.graph.saved import Autograd, saved_step
from chunkjac._tensors import Tensors

D = torch.float64
X = torch.linspace(-0.9, 1.3, 6, dtype=D)
C = torch.linspace(2.0, 3.0, 6, dtype=D)


class Doubled(torch.autograd.Function):
    """Double by an operation of one's own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2 * gradient


def _graph_of(func: Callable[..., torch.Tensor]) -> tuple[Callable[[], Tensors], Tensors, Autograd]:
    """Return a function's backward pass for ones, these, and its graph."""
    x, y = (values.clone().requires_grad_() for values in (X, X + 1))
    end = func(x, y)
    seed = (torch.ones_like(end),)
    run = lambda: torch.autograd.grad((end,), (x, y), grad_outputs=seed, retain_graph=True, create_graph=False)  # noqa: E731
    return run, seed, Autograd((end,), (x, y))


def _hooked(x: torch.Tensor, factor: float) -> torch.Tensor:
    """Return what has a hook that changes gradients."""
    made = x * 1.5
    made.register_hook(lambda gradient: factor * gradient)
    return made


def _node_hooked(x: torch.Tensor) -> torch.Tensor:
    """Return the same with the hook at the node."""
    made = x * 1.5
    node: Any = made.grad_fn
    node.register_prehook(lambda gradients: (2 * gradients[0],))
    return made


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (lambda x, y: x * y * C, lambda x, y: x * y * (C + 1), True),
        (lambda x, y: x.tanh() + (y @ torch.outer(C, C)), lambda x, y: x.tanh() + (y @ torch.outer(C, -C)), True),
        (lambda x, y: x * 2.0 + y, lambda x, y: x * 2.5 + y, False),
        (lambda x, y: x * 2.0 + y, lambda x, y: x * 2 + y, False),
        (lambda x, y: x**2.0 + y, lambda x, y: x**2.000001 + y, False),
        (lambda x, y: x + 0.0 * y, lambda x, y: x + -0.0 * y, False),
        (lambda x, y: x - y, lambda x, y: y - x, False),
        (lambda x, y: x * x + y, lambda x, y: x * y + x, False),
        (lambda x, y: x * C + y * C, lambda x, y: x * C + y * C.clone(), False),
        (lambda x, y: x * y * C, lambda x, y: x * y * C.repeat_interleave(2)[::2], False),
        (lambda x, y: (x * y).view(2, 3).sum(0), lambda x, y: (x * y).view(2, 3).sum(1).repeat(3)[:3], False),
        (lambda x, y: x.float().sin() * y, lambda x, y: x.half().sin() * y, False),
        (lambda x, y: x.float() + y, lambda x, y: x.half() + y, False),
        (lambda x, y: torch.where(C > 2, x, y), lambda x, y: torch.where(C > 2.5, x, y), True),
        (lambda x, y: _hooked(x, 1.0) + y, lambda x, y: x * 1.5 + y, False),
        (lambda x, y: x * 1.5 + y, lambda x, y: _hooked(x, 1 + 1e-9) + y, False),
        (lambda x, y: x * 1.5 + y, lambda x, y: _node_hooked(x) + y, False),
        (lambda x, y: x + y, lambda x, y: Doubled.apply(x) + y, False),
    ],
)
def test_graphs_that_do_the_same_are_told(one: Callable[..., Any], other: Callable[..., Any], same: bool) -> None:
    run, seed, graph = _graph_of(one)
    found = saved_step(run, seed, graph)
    run, _, graph = _graph_of(other)
    again = found[2].again(run, graph) if found is not None else None
    assert (again is not None) == same
    if found is not None and again is not None:
        step, (values, made) = found[0], again
        known = dict(zip((*step.constants, *step.given), (*values, *seed)))
        replayed = run_all(step.nodes, known, {*step.outputs})
        for node, expected in zip(step.outputs, made):
            assert torch.equal(replayed[node], expected)


@pytest.mark.parametrize(
    "func",
    [
        lambda x, y: Doubled.apply(x) + y,
        lambda x, y: _hooked(x, 2.0) + y,
        lambda x, y: _node_hooked(x) + y,
        lambda x, y: (x * 1).as_strided((3,), (2,)) + y[:3],
    ],
)
def test_graphs_that_hide_something_are_not_read(func: Callable[..., Any]) -> None:
    assert saved_step(*_graph_of(func)) is None


def test_a_checkpoint_is_not_evaluated_for_each_tensor_that_it_would_save() -> None:
    n_calls = 0

    def part(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return x.sin().cos().tanh().exp()

    graph = _graph_of(lambda x, y: checkpoint(part, x, use_reentrant=False) + y)
    assert saved_step(*graph) is None
    assert n_calls <= 3  # the function, one of what it would save, the backward pass


@pytest.mark.parametrize("factor", [1 + 1e-9, 2.0])
def test_a_plan_follows_hooks_however_little_they_change(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._programs.records.SHORT_S", -1.0)
    now = 1.5
    weights = torch.outer(C, C)

    def func(x: torch.Tensor) -> torch.Tensor:
        made = (weights @ x).tanh()
        if made.requires_grad:
            made.register_hook(lambda gradient: now * gradient)
        return made * 3

    planned = cj.plan(func, X, mode="reverse", verify=0)
    for _ in range(3):
        before = planned.run(X)
    now *= factor
    torch.testing.assert_close(planned.run(X), factor * before, rtol=1e-13, atol=0)


def test_a_run_with_a_report_does_not_slow_those_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._programs.records.SHORT_S", -1.0)
    looked: list[str] = []
    for name in ("saved_step", "recorded_step", "followed_step"):
        look = getattr(recording, name)
        noted = lambda *args, name=name, look=look: (looked.append(name), look(*args))[1]  # noqa: E731
        monkeypatch.setattr(recording, name, noted)
    weights = torch.outer(C, C)
    planned = cj.plan(lambda x: (weights @ x).tanh() * 3, X, mode="reverse")
    for report in (False, False, False, True, True):
        planned.run(X, return_report=report)
    assert {*looked} == {"saved_step", "recorded_step", "followed_step"}
    looked.clear()
    planned.run(X)
    assert not looked  # its values are read from autograd's graph as before
