"""When recording pays, and when a program stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._programs.records import Records
from chunkjac._programs.worth import derivatives_pay, why_no_faster


@pytest.mark.parametrize(
    ("each_s", "n_left", "pays"),
    [
        (0.005, 500, True),  # 50 microseconds for each of 100 nodes: 0.32 s to record, 1 s of 2.5 saved
        (0.005, 100, False),  # 0.2 s of 0.5
        (0.3, 10, False),  # 3 ms: most of it products of weights, of which little is saved
        (0.3, 100, True),  # 3 s of 30
    ],
)
def test_a_first_run_records_what_saves_more_than_that_takes(
    each_s: float, n_left: int, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chunkjac._programs.worth._LEAST_S", 0.02)
    assert derivatives_pay(Records(), "reverse", n_left, each_s, 0.02, 100) is pays


def test_a_program_has_to_be_faster_since_it_holds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._programs.worth._NO_FASTER", 0.9)
    assert "holds more" in why_no_faster(0.95, 1.0)
    assert not why_no_faster(0.85, 1.0)
    assert not why_no_faster(0.85, float("inf"))


def test_a_program_that_is_no_faster_is_given_up_after_the_run_that_recorded_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chunkjac._programs.records.SHORT_S", -1.0)
    monkeypatch.setattr("chunkjac._programs.derivative_program.SHORT_S", -1.0)
    monkeypatch.setattr("chunkjac._programs.worth._NO_FASTER", 0.0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))
    x = torch.randn(8)
    plan = cj.plan(net, x, mode="reverse", chunk_size=8)
    expected = torch.func.jacrev(net)(x)
    rungs = []
    for _ in range(3):
        found, report = plan.run(return_report=True)
        torch.testing.assert_close(found, expected)
        rungs.append(report.plan.rung)
    assert rungs[1] == "linear program"
    assert rungs[2] != "linear program"
    assert any("holds more" in reason for reason in report.plan.reasons)
