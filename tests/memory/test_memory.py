"""The promise: live bytes stay within ``max_memory``, and the plan knows them beforehand."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.differences.finite_difference import FiniteDifference
from chunkjac._modes.mode import Mode
from chunkjac._problem.problem import Problem
from tests.modes.test_against_torch import expected_of, relative_error
from tests.zoo import NAMES, Example, example

MODES = {"reverse": Reverse, "forward": Forward, "finite-difference": FiniteDifference}
CPU = torch.device("cpu")

# What an error asks for beyond what a dry run holds.
SLACK_BYTES = 1024


@pytest.fixture(autouse=True)
def plain_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no clock decide what is held: an evaluation that is recorded takes memory of its own."""
    monkeypatch.setattr("chunkjac._programs.worth._WORTH_COUNTING_S", float("inf"))


def tracked(case: Example, **options: Any) -> tuple[Any, cj.Report, int]:
    """Return Jacobian, report, and the peak that a tracker around the whole call saw."""
    with LiveBytes(CPU) as tracker:
        found, report = cj.jacobian(case.func, *case.args, argnums=case.argnums, return_report=True, **options)
    return found, report, tracker.peak_bytes


def plan_of(case: Example, **options: Any) -> cj.Plan:
    """Return the plan of an example."""
    return cj.plan(case.func, *case.args, argnums=case.argnums, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_live_bytes_never_exceed_the_budget(name: str, mode: str, share: float) -> None:
    """Budgets from one direction at a time (0) towards all at once (1)."""
    case = example(name)
    everything = plan_of(case, mode=mode, chunk_size=10**6)
    one = plan_of(case, mode=mode, chunk_size=1)
    least, most = one.predicted_peak_bytes, everything.predicted_peak_bytes
    # The line is fitted on chunks of 2 and more; a single direction may take other kernels.
    budget = int((least + share * max(0, most - least)) * 1.1)
    found, report, peak_bytes = tracked(case, mode=mode, max_memory=budget)
    assert peak_bytes <= budget
    assert report.peak_bytes <= budget
    assert relative_error(found, expected_of(case)) <= 1e-6


@pytest.mark.sweep
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_the_plan_predicts_the_peak_to_the_byte(name: str, mode: str) -> None:
    case = example(name)
    planned = plan_of(case, mode=mode)
    with LiveBytes(CPU) as tracker:
        _, report = planned.run(return_report=True)
    assert planned.predicted_peak_bytes == report.peak_bytes == tracker.peak_bytes
    planned = plan_of(case, mode=mode)  # the second run of a plan is by a linear program, which holds other memory
    with LiveBytes(CPU) as unwatched:
        planned.run()  # without a report, an ample budget is not watched
    # It may hold less: the statistics of a BatchNorm in eval mode, which nothing writes to, are not copied, slopes are
    # made in the result, and a block that is the whole result is it, so that there are never both. Or more: a plain
    # graph keeps what gradients of captured parameters would need; and a check of columns makes some single numbers.
    least_bytes = (
        0.75 * tracker.peak_bytes
        if mode == "finite-difference"
        else 0.9 * (tracker.peak_bytes - (planned.result_bytes if planned.n_chunks == 1 else 0))
    )
    assert least_bytes <= unwatched.peak_bytes <= 1.1 * tracker.peak_bytes + 3 * 8


@pytest.mark.sweep
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_report_holds_what_a_tracker_outside_sees(name: str, mode: str) -> None:
    """Chunks after the first of their size run without our tracker, and hold no more."""
    case = example(name)
    for options in ({}, {"chunk_size": 3}, {"max_memory": "1MiB"}):
        _, report, peak_bytes = tracked(case, mode=mode, **options)
        assert report.peak_bytes == peak_bytes
        # The first block is compared with one direction more, which shows in a function as small as these.
        assert report.plan.predicted_peak_bytes == pytest.approx(peak_bytes, rel=0.10, abs=256)


@pytest.mark.sweep
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_there_is_never_a_second_copy_of_the_result(name: str, mode: str) -> None:
    """Beside result and activations, a run holds what one of its chunks holds."""
    case = example(name)
    for size in (1, 4, 16):
        _, report, peak_bytes = tracked(case, mode=mode, chunk_size=size)
        tracker = LiveBytes(CPU)
        with tracker:
            made: Mode = MODES[mode](Problem.of(case.func, case.args, case.argnums, has_aux=False))
            kept_bytes, prologue_bytes = tracker.live_bytes, tracker.peak_bytes
            tracker.restart_peak()
            made.block(slice(0, min(size, report.plan.n_directions)))
            working_bytes = tracker.peak_bytes - kept_bytes
        level_bytes = report.plan.result_bytes + kept_bytes
        assert peak_bytes <= max(prologue_bytes, level_bytes + 1.1 * working_bytes)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_alive_afterwards_but_the_result(mode: str) -> None:
    case = example("cnn")
    with LiveBytes(CPU) as tracker:
        found, report = cj.jacobian(*[case.func, *case.args], mode=mode, return_report=True)
        assert tracker.live_bytes == report.plan.result_bytes
        del found
        assert tracker.live_bytes == 0


@pytest.mark.parametrize("mode", MODES)
def test_captured_parameters_that_require_grad_keep_no_graph(mode: str) -> None:
    case = example("mlp")
    assert any(parameter.requires_grad for parameter in case.func.parameters())
    _, _, with_grad_bytes = tracked(case, mode=mode, chunk_size=2)
    case.func.requires_grad_(False)
    _, _, without_bytes = tracked(case, mode=mode, chunk_size=2)
    assert with_grad_bytes == without_bytes


@pytest.mark.parametrize("mode", MODES)
def test_a_result_in_a_tensor_of_the_callers_does_not_count(mode: str) -> None:
    case = example("mlp")
    out = torch.empty(9, 13, dtype=torch.float64)
    alone = plan_of(case, mode=mode, chunk_size=2).predicted_peak_bytes
    _, report, peak_bytes = tracked(case, mode=mode, chunk_size=2, out=out)
    assert peak_bytes == report.peak_bytes < alone
    assert relative_error(out, expected_of(case)) <= 1e-6


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")  # tight budgets are slow, which is said
@pytest.mark.sweep
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_fit_is_refused_with_the_least_that_does(name: str, mode: str) -> None:
    case = example(name)
    with LiveBytes(CPU) as tracker, pytest.raises(cj.BudgetError, match=r"max_memory of [0-9]+ bytes") as caught:
        cj.jacobian(case.func, *case.args, argnums=case.argnums, mode=mode, max_memory=1)
    assert tracker.live_bytes == 0
    needed = caught.value.needed_bytes
    assert needed is not None
    found, report, peak_bytes = tracked(case, mode=mode, max_memory=needed)
    assert peak_bytes == report.peak_bytes <= needed
    assert relative_error(found, expected_of(case)) <= 1e-6
    # What is named has a little more than what a dry run holds; and differences may still do it with less, one point
    # after the other: it is what a batch needs.
    least = needed - SLACK_BYTES
    refused = suppress(cj.BudgetError) if mode == "finite-difference" else pytest.raises(cj.BudgetError)
    with LiveBytes(CPU) as tracker, refused:
        cj.jacobian(case.func, *case.args, argnums=case.argnums, mode=mode, max_memory=least - 1)
    assert tracker.peak_bytes <= least - 1


@pytest.mark.parametrize("name", NAMES)
def test_auto_keeps_to_tight_budgets_and_plans_what_it_runs(name: str) -> None:
    case = example(name)
    least = cj.plan(case.func, *case.args, argnums=case.argnums, chunk_size=1).predicted_peak_bytes
    for budget in (int(1.1 * least), int(1.5 * least), 4 * least):
        _, report, peak_bytes = tracked(case, max_memory=budget)
        assert peak_bytes == report.peak_bytes <= budget
        planned = plan_of(case, max_memory=budget)
        assert planned.predicted_peak_bytes == pytest.approx(planned.run(return_report=True)[1].peak_bytes, rel=0.10)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.sweep
@pytest.mark.parametrize("mode", [*MODES, "auto"])
@pytest.mark.parametrize(
    "func",
    [
        lambda x: x,
        lambda x: x.reshape(-1),
        lambda x: x[:2] * 2,
        lambda x: x.expand(3, 40),
        lambda x: x.repeat(50).view(50, -1)[0].sin(),
        lambda x: torch.diag(x).sum(0),
        lambda x: x * x.new_zeros(100, 40)[0],
    ],
)
def test_views_and_what_grows_keep_to_the_least_budget(func: Any, mode: str) -> None:
    x = torch.linspace(0, 1, 40, dtype=torch.float64)
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, x, mode=mode, max_memory=1)
    needed = caught.value.needed_bytes
    assert needed is not None
    _, _, peak_bytes = tracked(Example("", func, (x,)), mode=mode, max_memory=needed)
    assert peak_bytes <= needed


def test_auto_takes_a_mode_that_fits_over_one_that_does_not() -> None:
    """Thirty layers keep thirty activations for reverse mode, and two at a time for forward."""
    layers = [torch.nn.Tanh() for _ in range(30)]
    func = torch.nn.Sequential(torch.nn.Linear(100, 1000), *layers, torch.nn.Linear(1000, 30))
    x = torch.zeros(100)
    needs = {mode: cj.plan(func, x, mode=mode, chunk_size=1).predicted_peak_bytes for mode in ("reverse", "forward")}
    assert needs["forward"] < needs["reverse"]
    budget = int(needs["forward"] * 1.2)
    assert budget < needs["reverse"]
    for plan in (
        cj.plan(func, x, max_memory=budget),
        cj.jacobian(func, x, max_memory=budget, return_report=True)[1].plan,
    ):
        assert plan.mode == "forward"
        assert any("reverse does not fit" in reason for reason in plan.reasons)


def test_a_chunk_size_over_an_explicit_budget_is_an_error_before_it_is_exceeded() -> None:
    case = example("cnn")
    for mode in MODES:
        budget = plan_of(case, mode=mode, chunk_size=4).predicted_peak_bytes
        with LiveBytes(CPU) as tracker, pytest.raises(cj.BudgetError, match="chunk_size"):
            cj.jacobian(case.func, *case.args, mode=mode, chunk_size=20, max_memory=budget)
        assert tracker.peak_bytes <= budget
        with pytest.raises(cj.BudgetError, match="chunk_size"):
            plan_of(case, mode=mode, chunk_size=20, max_memory=budget)


def test_a_result_too_large_for_the_budget_is_an_error_before_the_first_chunk() -> None:
    calls = []

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return x.repeat(1000)

    with pytest.raises(cj.BudgetError, match="result"):
        cj.jacobian(func, torch.zeros(1000), mode="finite-difference", max_memory="1MiB")
    assert all(shape == (1000,) for shape in calls[:2])  # evaluated, not batched


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_what_does_not_fit_says_what_every_mode_needs(mode: str) -> None:
    case = example("decoder")
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(case.func, *case.args, mode=mode, max_memory=1)
    needs = caught.value.needed_bytes_by_mode
    assert list(needs) == [*MODES]
    own = min(needs["reverse"], needs["forward"]) if mode == "auto" else needs[mode]
    assert caught.value.needed_bytes == own
    for name, needed in needs.items():
        assert f"{name} in chunks of 1 needs" in str(caught.value)
        _, _, peak_bytes = tracked(case, mode=name, max_memory=needed)
        assert peak_bytes <= needed


def test_a_mode_that_fits_is_named_in_the_error_of_one_that_does_not() -> None:
    layers = [torch.nn.Tanh() for _ in range(30)]
    func = torch.nn.Sequential(torch.nn.Linear(100, 1000), *layers, torch.nn.Linear(1000, 30))
    x = torch.zeros(100)
    for budget, advice in ((60_000, "mode='forward', which fits"), (10_000, "mode='forward', which needs less")):
        with pytest.raises(cj.BudgetError, match=advice):
            cj.jacobian(func, x, mode="reverse", max_memory=budget)
    with pytest.raises(cj.BudgetError) as caught:
        cj.jacobian(func, x, mode="forward", max_memory=10_000)
    assert "mode=" not in str(caught.value).split("Give")[1]  # no other needs less


def test_a_chunk_size_that_does_not_fit_is_named() -> None:
    case = example("mlp")
    with pytest.raises(cj.BudgetError, match="a smaller chunk_size") as caught:
        cj.jacobian(case.func, *case.args, mode="reverse", chunk_size=9, max_memory=4000)
    needed = caught.value.needed_bytes
    assert needed is not None
    assert tracked(case, mode="reverse", chunk_size=9, max_memory=needed)[2] == needed - SLACK_BYTES


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_large_result_does_not_make_the_chunks_of_a_recurrent_network_small() -> None:
    """What its kernels work in goes by what a chunk holds."""
    net = torch.nn.LSTM(4, 8)

    def func(x: torch.Tensor) -> torch.Tensor:
        return net(x)[0].repeat(30, 1, 1)

    x = torch.zeros(10, 1, 4)
    result_bytes = cj.plan(func, x, mode="reverse").result_bytes
    one = cj.plan(func, x, mode="reverse", chunk_size=1)
    beside_bytes = 30 * (one.predicted_peak_bytes - result_bytes)
    plan = cj.plan(func, x, mode="reverse", max_memory=result_bytes + beside_bytes)
    assert plan.chunk_size >= 10
