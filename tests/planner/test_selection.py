"""Which mode is taken: by counts where they tell, by time in long jobs where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_flatten

import chunkjac as cj
from chunkjac._planner import selection, trials
from chunkjac._planner.trials import judge
from chunkjac._problem.leaves import Outputs


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "prologue_s", "choice"),
    [
        (100, 100, 0.0, "reverse"),
        (200, 100, 0.0, "reverse"),  # a column takes twice as long as a row, mostly
        (201, 100, 0.0, "forward"),
        (10, 0, 0.0, "reverse"),
        (100, 100, 0.01, "reverse"),  # 0.01 s, and 100 / 16 times that: 0.07 s in all
        (151, 150, 0.01, "timed"),  # 0.104 s
        (150, 150, 0.01, "reverse"),  # forward mode has no fewer directions
        (150, 150, 0.5, "timed"),  # 5.2 s
        (399, 100, 0.02, "timed"),
        (400, 100, 0.02, "forward"),
        (100, 399, 1.0, "timed"),
        (100, 400, 0.02, "reverse"),
        (1599, 100, 0.2, "timed"),  # 1.45 s
        (1600, 100, 0.2, "forward"),
        (100, 400, 0.2, "reverse"),  # a column seldom takes less than a row
    ],
)
def test_counts_decide_unless_they_are_close_and_the_job_is_long(
    n_rows: int, n_columns: int, prologue_s: float, choice: str
) -> None:
    assert judge(n_rows, n_columns, prologue_s) == choice


class Clock:
    """Stand still, but for what is said to take time."""

    now_s = 0.0

    def perf_counter(self) -> float:
        return self.now_s


def chosen(monkeypatch: pytest.MonkeyPatch, func: Callable[..., Any], x: torch.Tensor, **block_s: float) -> str:
    """Return the mode that is chosen where prologues take a second and blocks of each mode so many."""
    clock = Clock()
    for file in (selection, trials):
        monkeypatch.setattr(file, "time", clock)

    class Reverse(selection.Reverse):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            clock.now_s += 1

        def block(self, chunk: slice, places: Any = None) -> Any:
            clock.now_s += block_s["reverse"]
            return super().block(chunk)

    class Forward(selection.Forward):
        def block(self, chunk: slice, places: Any = None) -> Any:
            clock.now_s += block_s["forward"]
            return super().block(chunk)

    monkeypatch.setattr(selection, "Reverse", Reverse)
    monkeypatch.setattr(selection, "Forward", Forward)
    found, report = cj.jacobian(func, x, return_report=True)
    expected = torch.func.jacrev(func)(x)
    assert torch.allclose(found, expected)
    return str(report.plan.mode)


def widened(x: torch.Tensor) -> torch.Tensor:
    """Give ten outputs for each input."""
    return (x[:, None] * torch.arange(10.0)).sin()


@pytest.mark.parametrize(("forward_s", "mode"), [(9.0, "forward"), (11.0, "reverse")])
def test_a_long_job_takes_the_mode_that_is_measured_to_be_faster(
    monkeypatch: pytest.MonkeyPatch, forward_s: float, mode: str
) -> None:
    """There are 300 rows and 30 columns: forward mode has 10 times fewer directions."""
    assert chosen(monkeypatch, widened, torch.ones(30), reverse=1.0, forward=forward_s) == mode


def test_a_short_job_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("this was timed")

    monkeypatch.setattr(selection, "faster", refuse)
    x = torch.ones(600)
    _, report = cj.jacobian(torch.sin, x, return_report=True)
    assert report.plan.mode == "reverse"


def _chain(n_steps: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function of so many small steps, with four times as many outputs as inputs."""

    def chain(x: torch.Tensor) -> torch.Tensor:
        for _ in range(n_steps):
            x = x + 0.01 * x.sin()
        return torch.cat([x, x.cos(), x.exp(), x.tanh()])

    return lambda x: chain(x.repeat(width))


@pytest.mark.parametrize(
    ("n_steps", "width", "mode"), [(200, 1, "reverse"), (20, 1, "reverse"), (200, 1000, "forward")]
)
def test_chains_of_tiny_operations_take_reverse_mode(n_steps: int, width: int, mode: str) -> None:
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)
    func = _chain(n_steps, width)
    jacobian, report = cj.jacobian(func, x, return_report=True)
    assert report.plan.mode == mode
    if mode == "reverse":
        assert any("calls take the time" in reason for reason in report.plan.reasons)
    torch.testing.assert_close(jacobian, torch.func.jacfwd(func)(x))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_such_chains_do_so_in_plans_too_where_torch_func_cannot_run_them() -> None:
    class OldStep(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x + float(x.sum() * 0) + 0.01 * x.sin()  # it reads values: fakes cannot run it

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * (1 + 0.01 * ctx.saved_tensors[0].cos())

    func = _chain(200, 1)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64)
    plan = cj.plan(lambda x: func(OldStep.apply(x)), x)
    assert plan.mode == "reverse"
    torch.testing.assert_close(plan.run(), torch.func.jacfwd(lambda x: func(x + 0.01 * x.sin()))(x))


@pytest.mark.parametrize(
    ("numel", "n_directions", "are_all"),
    [(None, 1, False), (8.0, 400, True), (1000.0, 1000, False), (2.0**14, 1, True)],
)
def test_calls_take_all_the_time_of_tiny_operations_only(numel: float | None, n_directions: int, are_all: bool) -> None:
    told = Outputs((), tree_flatten(())[1], n_nodes=1000, node_numel=numel)
    assert told.are_calls_all(n_directions) == are_all
