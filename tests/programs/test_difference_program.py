"""Evaluations of perturbed copies as programs: against plain evaluations, reverse mode and products by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import chunkjac as cj
from chunkjac._chunker.copies import BatchLayout, PerturbedCopies
from chunkjac._chunker.counting import ChunkRoom
from chunkjac._problem.problem import Problem
from chunkjac._programs.difference_program import DifferenceProgram
from chunkjac._programs.passes.first_layer import Nudged
from chunkjac._programs.plain_evaluation import PlainEvaluation
from chunkjac._programs.records import ModeRecord, SeenByDifferences
from chunkjac._programs.usage import Usage

PROGRAM = "as a program"


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference beside the largest element."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(autouse=True)
def never_given_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let there be programs that do not pay, and let those stay that take longer, as in tiny functions."""
    monkeypatch.setattr("chunkjac._programs.difference_program.evaluations_pay", lambda *_, **__: True)
    if "slower" not in request.node.name:
        monkeypatch.setattr(DifferenceProgram, "finish", lambda self: None)


def plan_of(func: Callable[..., Any], *args: Any, **options: Any) -> cj.Plan:
    """Return a plan of finite differences that has run once, and so records in its next run."""
    plan = cj.plan(func, *args, mode="finite-difference", **options)
    plan.run()
    return plan


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_nudged_product_is_the_product_of_the_copies(data: st.DataObject) -> None:
    n_lines, n_columns, width = (data.draw(st.integers(1, 5)) for _ in range(3))
    others = data.draw(st.integers(0, 6))  # directions of an input before this one
    n_points, with_base, with_last = data.draw(st.integers(1, 3)), data.draw(st.booleans()), data.draw(st.booleans())
    behind = data.draw(st.integers(0, 4))
    total = others + n_lines * n_columns + behind
    k = data.draw(st.integers(1, total))
    start = data.draw(st.integers(0, total - k))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    inputs = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (others, n_lines * n_columns, behind)]
    last = [x + 1 for x in inputs] if with_last else None
    copies = PerturbedCopies(inputs, n_points, with_base, last)
    parts = [slice(a, b) for a, b in ((0, others), (others, total - behind), (total - behind, total))]
    points = []
    for x, part in zip(inputs, parts):
        low, high = max(part.start, start), min(part.stop, start + k)
        if low < high:
            moved = x[low - part.start : high - part.start]
            points.append(torch.stack([moved + 0.1 * (i + 1) for i in range(n_points)]))
    batch = copies.batch(slice(start, start + k), points)[1].view(-1, n_columns)
    matrix, bias = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (n_columns, 1))
    x = inputs[1].view(n_lines, n_columns)
    ends = torch.cat([x, *([last[1].view(n_lines, n_columns)] if last else [])])
    out = torch.full((batch.shape[0], width), torch.nan, dtype=torch.float64)
    nudged = Nudged(BatchLayout(k, n_points, with_base, with_last), others)
    nudged(start, batch, x, ends @ matrix + bias, matrix, out=out)
    torch.testing.assert_close(out, batch @ matrix + bias)


@pytest.mark.parametrize("scheme", ["forward", "central", "central4", "richardson"])
def test_runs_by_a_program_give_what_reverse_mode_gives(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    was_used: list[bool] = []
    monkeypatch.setattr(DifferenceProgram, "finish", lambda self: was_used.append(self.was_used))
    net = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 20)).double().requires_grad_(False)
    x, other = torch.randn(2, 40, dtype=torch.float64)
    plan = plan_of(net, x, scheme=scheme, chunk_size=5)
    for at in (x, other, x):
        found, _ = plan.run(at, return_report=True)
        assert relative_error(found, cj.jacobian(net, at, mode="reverse")) < 1e-6
        assert relative_error(plan.run(at), found) < (1e-6 if scheme == "forward" else 1e-9)  # the rounding of each
        assert was_used[-1]


def test_tokens_and_several_inputs_go_by_a_program() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(6, 8).double(), nn.Linear(5, 8).double()

    def func(tokens: torch.Tensor, vector: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = torch.tanh(first(tokens) + second(vector).unsqueeze(-2))
        return {"sum": hidden.sum(-2), "hidden": hidden}

    args = torch.randn(3, 6, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    expected = cj.jacobian(func, *args, argnums=(0, 1), mode="reverse")
    for options in ({}, {"chunk_size": 4}, {"chunk_size": 1}, {"max_memory": "1MiB"}):
        plan = plan_of(func, *args, argnums=(0, 1), **options)
        for _ in range(3):
            found = plan.run()
            for name in expected:
                for mine, yours in zip(found[name], expected[name]):
                    assert relative_error(mine, yours) < 1e-7


def test_float32_is_as_near_by_a_program_as_without() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 300), nn.GELU(), nn.Linear(300, 200)).requires_grad_(False)
    x = torch.randn(100)
    expected = cj.jacobian(net.double(), x.double()).float()
    net.float()
    plain = cj.jacobian(net, x, mode="finite-difference")
    plan = plan_of(net, x)
    plan.run()
    found = plan.run()
    # Rounding of both points is less alike: 1.3 to 1.4 times the noise (four seeds).
    assert (found - expected).norm() < 2 * (plain - expected).norm()


def test_bounds_hold_in_a_program() -> None:
    seen: list[torch.Tensor] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.sqrt(x @ torch.ones(5, 5, dtype=x.dtype))

    x = torch.full((5,), 1e-9, dtype=torch.float64)
    plan = plan_of(func, x, bounds=(0.0, 1.0))
    for _ in range(3):
        seen.append(plan.run())
    assert all(bool(values.isfinite().all()) for values in seen)
    torch.testing.assert_close(seen[2], seen[0])


def test_weights_that_change_are_seen() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh()).double().requires_grad_(False)
    x = torch.randn(8, dtype=torch.float64)
    plan = plan_of(net, x)
    plan.run()
    for change in (
        lambda: net[0].weight.mul_(2),  # in place
        lambda: setattr(net[0], "weight", nn.Parameter(torch.randn(8, 8, dtype=torch.float64), requires_grad=False)),
        lambda: net.append(nn.Sigmoid()),
        lambda: net[0].weight.data.add_(1),
    ):
        change()
        for _ in range(3):
            assert relative_error(plan.run(), cj.jacobian(net, x, mode="reverse")) < 1e-7


def test_flags_and_counters_of_the_functions_own_are_seen() -> None:
    class Model:
        factor = 1.0

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sin(self.factor * x)

    model, x = Model(), torch.randn(7, dtype=torch.float64)
    plan = plan_of(model, x)
    plan.run()
    for factor in (2.0, 3.0):
        model.factor = factor
        for _ in range(2):
            assert relative_error(plan.run(), cj.jacobian(model, x, mode="reverse")) < 1e-7


def test_aux_is_that_of_each_run() -> None:
    plan = plan_of(lambda x: (x.sin(), x.sum()), torch.ones(4, dtype=torch.float64), has_aux=True)
    for value in (2.0, 3.0, 4.0):
        x = torch.full((4,), value, dtype=torch.float64)
        found, aux = plan.run(x)
        assert aux == x.sum()
        assert relative_error(found, torch.diag(x.cos())) < 1e-8


def test_other_arguments_are_those_of_each_run() -> None:
    weight, x = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    plan = plan_of(lambda x, weight: nn.functional.linear(x, weight), x, weight[0])
    for i in (0, 1, 0, 1):
        assert relative_error(plan.run(x, weight[i]), weight[i]) < 1e-8


def test_what_reads_values_has_no_program_and_says_why() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sin() if x.sum().item() > -1e9 else x.cos()

    x = torch.randn(6, dtype=torch.float64)
    plan = plan_of(func, x)
    plan.run()
    found, report = plan.run(return_report=True)
    assert relative_error(found, torch.diag(x.cos())) < 1e-8
    assert any("it reads values" in reason for reason in report.plan.reasons)
    assert not report.plan.rung.endswith(PROGRAM)


def test_a_last_chunk_that_is_smaller_has_its_own_columns() -> None:
    weight = torch.randn(5, 11, dtype=torch.float64)
    for size in (3, 4, 6, 7, 10, 11):
        plan = plan_of(
            lambda x: nn.functional.linear(x, weight).exp(), torch.zeros(11, dtype=torch.float64), chunk_size=size
        )
        for _ in range(2):
            assert relative_error(plan.run(), weight) < 1e-8


def test_a_part_in_numpy_has_no_program() -> None:
    weight = torch.randn(12, 5, dtype=torch.float64)

    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(torch.from_numpy(np.sin(x.numpy())) @ weight)

    def same(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.sin() @ weight)

    x = torch.randn(12, dtype=torch.float64)
    for options in ({}, {"chunk_size": 3}):
        plan = plan_of(func, x, **options)
        for _ in range(3):
            assert relative_error(plan.run(), cj.jacobian(same, x)) < 1e-7
        _, report = plan.run(return_report=True)
        assert not report.plan.rung.endswith(PROGRAM)


@pytest.mark.parametrize("batching", ["auto", "vmap"])
def test_captured_values_that_are_read_may_change(batching: str) -> None:
    flag, scale = torch.tensor(True), torch.tensor(2.0)

    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * float(scale) if flag else x.cos()

    x = torch.randn(8, dtype=torch.float64)
    plan = plan_of(func, x, batching=batching)
    plan.run()
    for change in (lambda: scale.fill_(3.0), lambda: flag.fill_(False)):
        change()
        for _ in range(2):
            assert relative_error(plan.run(), cj.jacobian(func, x)) < 1e-7


@pytest.mark.parametrize(
    "options",
    [{"mode": "reverse"}, {"mode": "forward"}, {"mode": "finite-difference"}, {"batching": "vmap"}],
    ids=["reverse", "forward", "native", "vmap"],
)
def test_a_tensor_may_be_two_arguments_in_one_run_and_one_in_the_next(options: dict[str, Any]) -> None:
    def func(x: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * first) + x * second

    x, w = torch.randn(2, 8, dtype=torch.float64)
    plan = cj.plan(func, x, w, w, **{"mode": "finite-difference", **options})
    for _ in range(3):
        plan.run()
    for args in ((x, w, w + 1), (x, w + 1, w), (x, x, w), (x, x, x), (x, w, w)):
        expected = torch.func.jacrev(func)(*args)
        for _ in range(2):
            assert relative_error(plan.run(*args), expected) < 1e-7


def test_an_argument_that_is_captured_as_well_is_both() -> None:
    p = nn.Parameter(torch.randn(8, dtype=torch.float64))

    def func(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x * q) + x * p

    x = torch.randn(8, dtype=torch.float64)
    for mode in ("reverse", "forward", "finite-difference"):
        plan = cj.plan(func, x, p, mode=mode)
        for _ in range(3):
            plan.run()
        q = torch.randn(8, dtype=torch.float64)
        assert relative_error(plan.run(x, q), torch.func.jacrev(func)(x, q).detach()) < 1e-7


def test_under_autocast_there_is_no_program() -> None:
    weight = nn.Parameter(torch.randn(8, 8))
    x = torch.randn(8)
    plan = plan_of(lambda x: (x @ weight).float().tanh(), x)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, report = plan.run(return_report=True)
        assert not report.plan.rung.endswith(PROGRAM)


def _program(call: Callable[[Any], Any], *, agrees: bool) -> tuple[DifferenceProgram, ModeRecord]:
    """Return a program of 8 directions, in the second run of a plan."""
    x = torch.zeros(8)
    problem = Problem.of(call, (x,), 0, has_aux=False)
    record = ModeRecord()
    copies = PerturbedCopies([x], 1, True)
    seen = SeenByDifferences(problem.evaluate()[1], eps=1e-7, n_operations=1, has_products=False, largest_bytes=1)
    evaluation = PlainEvaluation(
        problem=problem,
        call=lambda batch, own=problem: own.flat(*batch),
        batch=lambda chunk: copies.batch(chunk, [x[None, chunk] + 1]),
        copies=copies.layout,
        last=(),
        agrees=lambda mine, yours: agrees,
        seen=seen,
    )
    usage = Usage(exact_size=4, room=ChunkRoom(2**20), counts_again=False, is_counted=False, is_timed=True)
    record.programs = {4: None}  # of other operations: it is made anew
    return DifferenceProgram(evaluation, record, usage), record


def test_a_program_that_gives_other_values_is_not_used() -> None:
    program, record = _program(torch.sin, agrees=False)
    assert program.wanted_size(8) == 4
    (recorded,) = program.values(slice(0, 4))
    torch.testing.assert_close(recorded[:4].diagonal(), torch.ones(4).sin())
    (plain,) = program.values(slice(4, 8))
    torch.testing.assert_close(plain[:4, 4:].diagonal(), torch.ones(4).sin())
    assert record.refused == "it gives other values than the function"
    assert not program.was_used
    assert not record.programs


def test_a_program_that_is_slower_is_given_up() -> None:
    program, record = _program(torch.sin, agrees=True)
    assert program.wanted_size(8) == 4
    record.direction_s = 1e-12
    for start in (0, 4, 4):  # the first was computed while it was recorded
        program.values(slice(start, start + 4))
    assert program.wanted_size(4) is None
    assert "without one" in record.refused


def test_there_must_be_room_for_its_results() -> None:
    program, record = _program(lambda x: (x.sin()[..., None] * torch.ones(2**16)).sum(-1), agrees=True)
    assert program.wanted_size(8) is None
    assert record.refused == "its results take more than there is room for"
