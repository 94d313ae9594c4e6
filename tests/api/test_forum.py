"""The forum's ways to a Jacobian give the same numbers, and what the documentation says of them was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from benchmarks.forum import RIVALS, SIDES, line

ROOT = Path(__file__).parents[2]
ROWS: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "results" / "forum.json").read_text())["rows"]


@pytest.mark.parametrize("side", ["looped", "repeated"])
@pytest.mark.parametrize("mode", RIVALS)
def test_every_way_gives_the_same_numbers(mode: str, side: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(9, 4)).double().requires_grad_(False)
    x = torch.randn(1, 2, 5, dtype=torch.float64)
    found = RIVALS[mode][side](net, x)
    expected = cj.jacobian(net, x, mode=mode).reshape(4, 10)
    # Each entry is a sum of a few tens of products: 1e-12 is 4500 eps of the largest.
    assert torch.allclose(found, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))


def test_chunks_fit_wherever_repeated_inputs_do_not() -> None:
    assert all(row["sides"]["chunked"]["fits"] for row in ROWS)
    assert all(row["sides"]["chunked"]["peak_bytes"] <= row["budget_bytes"] for row in ROWS)
    for mode in RIVALS:
        assert not all(row["sides"]["repeated"]["fits"] for row in ROWS if row["mode"] == mode)
        assert any(row["sides"]["repeated"]["fits"] for row in ROWS if row["mode"] == mode)


def test_all_that_was_timed_was_right() -> None:
    sides = [row["sides"][name] for row in ROWS for name in SIDES]
    assert all(side["relative_error"] < 1e-4 for side in sides if side["time_s"] is not None)
    assert all(row["sides"][name]["time_s"] is not None for row in ROWS for name in ("looped", "chunked"))


def test_the_documentation_has_the_table_that_was_measured() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    assert all(line(row) in text for row in ROWS)
