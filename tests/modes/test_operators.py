"""Nothing is silently different for any operator that torch can differentiate; ``tests/operators`` does the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import chunkjac as cj
from tests.operators import cases, referees, slices, table
from tests.operators.cases import Case
from tests.operators.compare import equal
from tests.operators.judge import FAULTS, MODES, OUTCOMES, Verdict, judge
from tests.operators.known import gone, unknown
from tests.operators.truth import Truth

N_SLICES = 12

A_FEW = [
    "add",  # of two inputs
    "cat",  # of a list
    "amax",  # not smooth where two are largest
    "fft.rfft",  # complex
    "linalg.eigh",  # outputs known up to their sign
    "linalg.inv_ex",  # one output is a whole number
    "masked_select",
    "nn.functional.dropout",
    "grid_sampler_3d",  # no forward derivative
    "to_sparse",
]

SUMMARY: dict[str, Any] = json.loads(table.SUMMARY.read_text())


def of_hand(func: Any, *inputs: torch.Tensor) -> Case:
    """Return a case that is not an operator's."""
    return Case("by hand", 0, "", lambda *xs: (func(*xs),), inputs)


def point(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def words(faults: list[Verdict]) -> list[str]:
    return [f"{v.operator} {v.mode}: {v.outcome}{' by ' + v.rung if v.rung else ': ' + v.reason}" for v in faults]


def test_a_few_operators_have_no_unknown_faults(tmp_path: Path) -> None:
    verdicts = slices.run_slice(A_FEW, tmp_path / "verdicts.jsonl", n_samples=2)
    assert {verdict.operator for verdict in verdicts} == set(A_FEW)
    for mode in MODES:
        assert sum(v.mode == mode and v.outcome == "agreed" for v in verdicts) >= 10
    assert {(v.operator, v.outcome) for v in verdicts} >= {("to_sparse", "more")}
    assert not unknown(words([verdict for verdict in verdicts if verdict.outcome in FAULTS]))


def test_an_operator_that_ends_the_process_is_a_fault_and_the_next_is_judged(tmp_path: Path) -> None:
    verdicts = slices.run_slice(["no such operator", "sin"], tmp_path / "verdicts.jsonl", n_samples=1)
    assert [(v.operator, v.outcome) for v in verdicts][:2] == [("no such operator", "crashed"), ("sin", "agreed")]
    assert len(verdicts) == 1 + len(MODES)


@pytest.mark.parametrize("referee", [referees.by_rows, referees.by_columns])
def test_plain_referees_know_the_jacobian_of_a_product(referee: Any) -> None:
    x, y = point(1.0, 2.0), point(3.0, 5.0)
    by_x, by_y = referee(of_hand(lambda x, y: x * y, x, y))
    assert torch.equal(by_x, torch.diag(y))
    assert torch.equal(by_y, torch.diag(x))


def test_differences_know_where_a_function_is_smooth() -> None:
    found = referees.by_differences(of_hand(lambda x: x.relu() + x.ceil(), point(-2.5, 0.0, 1.5, 3.0)))
    assert [part.diagonal().tolist() for part in found.smooth] == [[True, False, True, False]]
    assert found.values[0][0, 0].item() == pytest.approx(0.0)
    assert found.values[0][2, 2].item() == pytest.approx(1.0)


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_number_is_a_fault(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, right = of_hand(torch.sin, point(0.5, 1.5)), cj.jacobian
    assert [verdict.outcome for verdict in judge(case)] == ["agreed"] * len(MODES)

    def wrong(*args: Any, **options: Any) -> Any:
        ((part,),), report = right(*args, **options)
        return ((part + 1e-3 * torch.eye(2),),), report

    monkeypatch.setattr(cj, "jacobian", wrong)
    monkeypatch.setattr(cj, "jacrev", lambda *_, **__: lambda x: ((wrong_of(case, x),),))
    monkeypatch.setattr(cj, "jacfwd", lambda *_, **__: lambda x: ((wrong_of(case, x),),))
    verdict = judge(case)[MODES.index(mode)]
    assert verdict.outcome == "different"
    assert verdict.outcome in FAULTS


def wrong_of(case: Case, x: torch.Tensor) -> torch.Tensor:
    return torch.diag(x.cos()) + 1e-3 * torch.eye(2)


def test_agreeing_with_a_wrong_torch_func_is_a_fault_and_being_right_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    case = of_hand(torch.sin, point(0.5, 1.5))
    for name in ("jacrev", "jacfwd"):
        monkeypatch.setattr(torch.func, name, lambda *_: lambda x: ((wrong_of(case, x),),))
    assert [verdict.outcome for verdict in judge(case)] == ["mended", "mended", "agreed"]
    right = cj.jacobian
    monkeypatch.setattr(
        cj, "jacobian", lambda *args, **options: (((wrong_of(case, args[1]),),), right(*args, **options)[1])
    )
    for name in ("jacrev", "jacfwd"):
        monkeypatch.setattr(cj, name, lambda *_, **__: lambda x: ((wrong_of(case, x),),))
    assert [verdict.outcome for verdict in judge(case)] == ["inherited", "inherited", "different"]


def test_either_side_of_a_kink_is_right() -> None:
    """Plain forward and backward derivatives may differ there, and nowhere else."""
    truth = Truth(of_hand(torch.relu, point(0.0, 1.0)))
    assert truth.rows.parts is not None
    assert truth.is_right(truth.rows.parts)
    assert truth.is_right([torch.diag(point(0.0, 1.0))])
    assert truth.is_right([torch.diag(point(0.0, 1.1))]) is False
    assert not equal([torch.diag(point(0.0, 1.1))], truth.rows.parts)


def test_the_page_is_of_the_last_sweep() -> None:
    assert table.PAGE.read_text() == table.markdown(SUMMARY)


def test_the_faults_of_the_last_sweep_are_those_that_are_known() -> None:
    faults = table.faults(SUMMARY)
    assert not unknown(faults)
    assert not gone(faults)
    assert set(FAULTS) <= set(OUTCOMES)


@pytest.mark.long
def test_the_last_sweep_was_of_all_operators() -> None:
    assert list(SUMMARY["operators"]) == cases.names()
    assert len(SUMMARY["operators"]) > 500


@pytest.mark.long
@pytest.mark.parametrize("part", range(N_SLICES))
def test_nothing_is_silently_different(part: int, tmp_path: Path) -> None:
    operators = slices.slice_of(part, N_SLICES)
    verdicts = slices.run_slice(operators, tmp_path / "verdicts.jsonl")
    assert not unknown(words([verdict for verdict in verdicts if verdict.outcome in FAULTS]))
    summary = table.summarise(verdicts, operators, cases.N_SAMPLES)
    assert all(
        row["n_samples"] for name, row in summary["operators"].items() if SUMMARY["operators"][name]["n_samples"]
    )
