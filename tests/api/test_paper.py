"""What the documentation says of the paper is what was measured, and the rival is what the paper describes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper import PAPERS_ERRORS, PAPERS_TIMES_S
from benchmarks.paper_way import all_at_once, errors_of

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "results" / "paper.json").read_text())["rows"]
TEXT = (ROOT / "docs" / "benchmarks.md").read_text().split("## The paper, measured again")[1]
MIB = 2**20


def part(name: str) -> list[dict[str, Any]]:
    return [row for row in ROWS if row["part"] == name]


def cells(first: str, n_columns: int) -> list[str]:
    """Return the cells of the row of that name, in the table of so many columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines()]
    return next(row for row in rows if row[0] == first and len(row) == n_columns)


@pytest.mark.parametrize("case", PAPERS_ERRORS)
def test_the_accuracy_is_the_papers_and_the_docs_have_it(case: str) -> None:
    errors = {row["side"]: (row["mean_error"], row["max_error"]) for row in part("accuracy") if row["case"] == case}
    assert errors["paper"] == PAPERS_ERRORS[case]
    assert errors["JacrevFinite"][0] <= 1.5 * errors["paper"][0]
    assert errors["JacrevFinite"][1] <= 1e-10  # what the paper's own checks allow
    sides = ["paper", "JacrevFinite", *(["jacfd"] if "jacfd" in errors else [])]
    shown = ["{:.1e}, {:.1e}".format(*errors[side]) for side in sides]
    assert cells(case, 4)[1 : 1 + len(shown)] == shown


def test_draws_that_cross_a_kink_are_told_of() -> None:
    crossing = {row["case"]: row["n_crossing"] for row in part("accuracy") if row["n_crossing"]}
    assert list(crossing) == [list(PAPERS_ERRORS)[-1]]
    assert f"in {crossing.popitem()[1]} of the 9 draws of the last row" in TEXT


def curve(network: str, side: str) -> list[dict[str, Any]]:
    return [row for row in part("delta") if (row["network"], row["side"]) == (network, side)]


@pytest.mark.parametrize("network", ["relu", "tanh"])
@pytest.mark.parametrize("side", ["plus, float64", "central, float64", "plus, float32, all at once"])
def test_deltas_go_from_a_tenth_to_a_ten_billionth(network: str, side: str) -> None:
    deltas = [row["delta"] for row in curve(network, side)]
    assert deltas[0] == pytest.approx(1e-1)
    assert deltas[-1] == pytest.approx(1e-10)
    assert len(deltas) >= 10


@pytest.mark.parametrize(
    ("default", "side"),
    [
        ("plus, float64, default step", "plus, float64"),
        ("central, float64, default step", "central, float64"),
        ("plus, float32, default step", "plus, float32, all at once"),
        ("central, float32, default step", "plus, float32, all at once"),
    ],
)
def test_the_steps_that_are_found_are_near_the_best(default: str, side: str) -> None:
    best = min(row["mean_error"] for row in curve("tanh", side))
    assert curve("tanh", default)[0]["mean_error"] <= 10 * best


def test_the_derivative_vanishes_in_single_precision_only() -> None:
    for network in ("relu", "tanh"):
        single, double = curve(network, "plus, float32, all at once")[-1], curve(network, "plus, float64")[-1]
        assert single["derivative"] == 0
        assert double["derivative"] == pytest.approx(double["autograd"], rel=1e-4)


@pytest.mark.parametrize("name", PAPERS_TIMES_S)
def test_the_docs_have_the_times(name: str) -> None:
    row = cells(name, 6)
    times = {row["side"]: row for row in part("time") if row["function"] == name}
    assert [cell.split(" (")[0] for cell in row[1:]] == [f"{time['call_s'] * 1e3:.3f} ms" for time in times.values()]
    papers = [times[side]["paper_s"] for side in ("torch.autograd.grad", "torch.func.jacrev", "JacrevFinite")]
    assert papers == [
        PAPERS_TIMES_S[name].get(side) for side in ("torch.autograd.grad", "torch.func.jacrev", "JacrevFinite")
    ]
    for cell, paper_s in zip(row[1:4], papers):
        assert paper_s is None or f"({paper_s * 1e3:.3f})" in cell


def test_the_docs_say_how_much_slower_small_functions_are() -> None:
    times = {(row["function"], row["side"]): row["call_s"] for row in part("time")}
    ratios = [times[name, "JacrevFinite"] / times[name, "all at once"] for name in PAPERS_TIMES_S]
    ours_ms = [times[name, "JacrevFinite"] * 1e3 for name in PAPERS_TIMES_S]
    assert f"{min(ours_ms):.1f} to {max(ours_ms):.1f} ms here, {min(ratios):.0f} to {max(ratios):.0f} times" in TEXT


@pytest.mark.parametrize("name", ["product", "linear layer, tanh"])
def test_a_jacobian_and_a_chunk_are_held_not_four_jacobians(name: str) -> None:
    sides = {row["side"]: row for row in part("memory") if row["function"] == name}
    result_bytes = sides["all at once"]["result_bytes"]
    assert result_bytes == 8 * 3000**2
    assert sides["all at once"]["peak_bytes"] >= 4 * result_bytes
    assert sides["JacrevFinite"]["peak_bytes"] <= 2 * result_bytes
    assert sides["JacrevFinite, J + 8 MiB"]["peak_bytes"] <= result_bytes + 8 * MIB
    shown = [f"{row['peak_bytes'] / MIB:.1f} MiB, {row['call_s']:.2f} s" for row in sides.values()]
    assert cells(name, 4)[1:] == shown


def test_the_rival_is_right_where_the_paper_is() -> None:
    x, y = torch.tensor([[1.0, -2.0], [0.5, 3.0]]).double(), torch.tensor([[2.0, 0.25], [-1.0, 4.0]]).double()
    by_x, by_y = all_at_once(torch.mul, [x, y]), all_at_once(torch.mul, [x, y], number=1, delta=2**-10)
    assert errors_of(by_x, y.flatten())[1] <= 1e-10
    assert by_y.reshape(4, 4).equal(torch.diag(x.flatten()))
