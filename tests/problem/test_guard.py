"""What a program depends on: each kind of change is seen, and what cannot be looked into is said."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from chunkjac._problem.identity.guard import Guard
from chunkjac._problem.problem import Problem

SCALE = 1.0
TABLE = {"power": 2}


def problem_of(func: Callable[..., Any], *others: Any) -> Problem:
    """Return a problem of one input, and other arguments."""
    return Problem.of(func, (torch.ones(3), *others), 0, has_aux=False)


def by_global(x: torch.Tensor) -> torch.Tensor:
    """Use a number of the module's."""
    return SCALE * x


def by_table(x: torch.Tensor) -> torch.Tensor:
    """Use an entry of a dictionary of the module's."""
    return x ** TABLE["power"]


def through_another(x: torch.Tensor) -> torch.Tensor:
    """Use what another function uses."""
    return by_global(x) + 1


class Model(nn.Module):
    """Have a flag, a list and a child."""

    def __init__(self) -> None:
        super().__init__()
        self.flag = True
        self.factors = [1.0, 2.0]
        self.child = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Use them."""
        return self.child(x) * self.factors[0] if self.flag else x


def test_nothing_changed_holds() -> None:
    for func in (by_global, by_table, through_another, Model(), torch.sin, partial(torch.mul, other=2.0)):
        problem = problem_of(func)
        guard = Guard(problem)
        assert guard.is_complete
        assert guard.holds(problem)


@pytest.mark.parametrize("func", [by_global, through_another])
def test_globals_are_looked_at(monkeypatch: pytest.MonkeyPatch, func: Callable[..., Any]) -> None:
    guard = Guard(problem_of(func))
    monkeypatch.setattr(f"{__name__}.SCALE", 2.0)
    assert not guard.holds(problem_of(func))


def test_dictionaries_are_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    guard = Guard(problem_of(by_table))
    monkeypatch.setitem(TABLE, "power", 3)
    assert not guard.holds(problem_of(by_table))


def _add_hook(model: Model) -> None:
    model.child.register_forward_hook(lambda module, args, made: made * 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "flag", False),
        lambda model: model.factors.__setitem__(0, 3.0),
        lambda model: model.factors.append(1.0),
        lambda model: model.child.eval(),
        lambda model: setattr(model, "child", nn.Linear(3, 3)),
        lambda model: setattr(model.child, "weight", nn.Parameter(torch.zeros(3, 3))),
        lambda model: setattr(model, "forward", lambda x: x),
        _add_hook,
    ],
    ids=["flag", "item", "append", "eval", "child", "weight", "forward", "hook"],
)
def test_changes_of_modules_are_seen(change: Callable[[Model], object]) -> None:
    model = Model()
    guard = Guard(problem_of(model))
    change(model)
    assert not guard.holds(problem_of(model))


def test_values_of_weights_are_not_looked_at() -> None:
    model = Model()
    guard = Guard(problem_of(model))
    with torch.no_grad():
        model.child.weight.mul_(2)
    assert guard.holds(problem_of(model))


def test_closures_and_other_arguments_are_looked_at() -> None:
    power = 2

    def func(x: torch.Tensor, other: float) -> torch.Tensor:
        return x**power * other

    guard = Guard(problem_of(func, 2.0))
    assert guard.holds(problem_of(func, 2.0))
    assert not guard.holds(problem_of(func, 3.0))
    power = 3
    assert not guard.holds(problem_of(func, 2.0))


@pytest.mark.parametrize("setting", [torch.set_default_dtype, torch.set_num_threads])
def test_settings_of_torch_may_not_be_ignored(setting: Callable[[Any], None]) -> None:
    guard = Guard(problem_of(by_global))
    before: Any = torch.get_default_dtype() if setting is torch.set_default_dtype else torch.get_num_threads()
    other: Any = torch.float64 if setting is torch.set_default_dtype else before
    setting(other)
    try:
        assert guard.holds(problem_of(by_global)) == (setting is torch.set_num_threads)
    finally:
        setting(before)


def test_what_cannot_be_looked_into_is_said() -> None:
    numbers = iter([1.0, 2.0])
    for func in (lambda x: x * next(numbers), lambda x: x * time.time(), lambda x: x * random.random()):
        assert not Guard(problem_of(func)).is_complete
