"""The functions of the benchmarks are what their tables say, and what measures them is right."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import benchmarks
from benchmarks import rival, streams_stay_flat
from benchmarks.architectures import Architecture
from benchmarks.contest import neighbour, rows_of, warm_up
from benchmarks.paper_way import all_at_once
from benchmarks.record import relative_error, save, times_s
from benchmarks.zoo import ENTRIES, Entry, functions, has_transformers
from tests.zoo import Stateless

FOLDER = Path(benchmarks.__file__).parent


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.name}-{entry.size}")
def test_every_function_is_built_and_its_shapes_are_as_said(entry: Entry) -> None:
    if entry.of_library and not has_transformers():
        pytest.skip("transformers is not installed")
    case = entry.build()
    with torch.no_grad():
        values = tree_leaves(case.func(*case.args))
    assert sum(value.numel() for value in values) == entry.n_outputs
    assert sum(leaf.numel() for leaf in tree_leaves(case.args[0])) == entry.n_inputs
    assert all(value.isfinite().all() for value in values)
    assert all(value.std() > 0 for value in values)


def test_there_are_as_many_functions_as_the_claims_need() -> None:
    assert len({entry.name for entry in ENTRIES}) >= 16
    assert len({entry.name for entry in ENTRIES if entry.of_library}) >= 8
    assert {entry.size for entry in functions("large", "small", quick=True)} == {"large", "small"}


def test_without_transformers_its_functions_are_left_out_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.zoo.has_transformers", lambda: False)
    found = list(functions("small", quick=True))
    assert found
    assert not any(entry.of_library for entry in found)
    assert "transformers" in capsys.readouterr().out


def test_every_claim_is_a_file_with_its_claim_and_a_run() -> None:
    for path in FOLDER.glob("*_*.py"):
        module = importlib.import_module(f"benchmarks.{path.stem}") if "def run(" in path.read_text() else None
        if module is not None:
            assert inspect.getdoc(module)
            assert "quick" in inspect.signature(module.run).parameters


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_all_ways_of_the_rival_are_tried_and_what_fails_is_left_out() -> None:
    warm_up("cpu")  # the first vmap of a process is so slow that others seem hopeless
    case = Architecture(lambda x: torch.cat([x.sin(), x.cos()] * 20), (torch.randn(7),))
    names = {side.name for side in rival.trial_times_s(case, 280, 7)}
    assert names == {"jacfwd", "jacrev, 16", "jacrev, 64", "jacrev, 256", "jacrev, all"}

    class OnlyBackward(Stateless):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * 2

    only_backward = Architecture(OnlyBackward.apply, (torch.randn(1, 1, 3, 2),))
    assert {side.name for side in rival.trial_times_s(only_backward, 6, 6)} == {"jacrev, all"}


def test_the_rival_under_a_budget_keeps_to_it() -> None:
    case = Architecture(lambda x: (x[:, None] * x).tanh().flatten(), (torch.randn(40),))
    result_bytes = 4 * 1600 * 40
    found = rival.find_rival_within(case, 1600, 40, 3 * result_bytes)
    assert found is not None
    assert found[0].name != "jacrev, all"
    assert found[1] == rival.tracked_peak_bytes(found[0], case) <= 3 * result_bytes
    assert rival.find_rival_within(case, 1600, 40, result_bytes) is None


# The signal may find the interpreter in a callback of the garbage collector's, which swallows it; there is another.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_side_that_takes_too_long_is_stopped_and_torch_func_works_after() -> None:
    def endless(x: torch.Tensor) -> torch.Tensor:
        while True:
            x = x.sin()

    case = Architecture(endless, (torch.randn(3),))
    side = rival.sides(endless, 3, 3)[0]
    assert rival._trial_s(side, case, 0.05) is None
    assert torch.func.jacrev(torch.sin)(torch.zeros(2)).equal(torch.eye(2))


def test_sides_take_turns_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = times_s({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {side: len(values) for side, values in times.items()} == {"a": 2, "b": 2}


def test_errors_are_relative_to_the_largest_entry_of_a_tensor() -> None:
    expected = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([100.0])}
    found = {"a": torch.tensor([2.0, -4.0]), "b": torch.tensor([101.0])}
    assert relative_error(found, expected) == 0.25


def test_a_function_that_fails_is_a_row_and_the_others_go_on() -> None:
    def measure(entry: Entry) -> dict[str, float]:
        if entry.name == "mlp":
            raise ValueError("no")
        return {"ratio": 1.0}

    rows = rows_of(("small",), measure, lambda row: "", quick=True)
    assert [row["failed"] for row in rows if row["function"] == "mlp"] == ["ValueError: no"]
    assert sum("ratio" in row for row in rows) == len(rows) - 1 > 5


def test_a_neighbour_moves_what_is_differentiated_only() -> None:
    case = Architecture(lambda p, x: p["a"] * x, ({"a": torch.ones(3)}, torch.ones(3)))
    params, x = neighbour(case)
    assert not params["a"].equal(case.args[0]["a"])
    assert x is case.args[1]


def test_windows_of_a_stream_begin_at_a_thousand_and_cover_all_to_the_end() -> None:
    seen = [(500 * i, 0.1 * i, 1000 + i) for i in range(1, 41)]
    windows = streams_stay_flat._windows(seen)
    assert [window["directions"] for window in windows] == [2500, 5500, 20000]
    assert all(window["direction_s"] == pytest.approx(0.1 / 500) for window in windows)
    assert windows[-1]["held_bytes"] == 1040


def test_the_papers_way_is_a_jacobian() -> None:
    x = torch.randn(5, dtype=torch.float64)
    assert relative_error(all_at_once(torch.sin, [x]), x.cos().diag()) < 1e-4


def test_results_say_which_versions_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.record.RESULTS", tmp_path)
    path = save("claim", [{"ratio": 1.0}], quick=True, packages=("numpy", "no_such_package"))
    assert path.name == "claim.quick.json"
    environment = json.loads(path.read_text())["environment"]
    assert "numpy" in environment
    assert "no_such_package" not in environment
