"""Large jobs under a budget take no longer than torch.func at the best of its chunk sizes.

Small ones pay for counting live bytes; they stand in the table too.

The rival is the fastest of ``torch.func.jacrev`` over chunk sizes 16, 64, 256 and all, with no
memory limit and with nothing counted for finding the best. Times are ratios to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from benchmarks.record import medians_s
from chunkjac._demo import ResNet18Features
from chunkjac._units import format_bytes

CHUNK_SIZES = (16, 64, 256, None)
BUDGET_BESIDE_RESULT_BYTES = 64 * 2**20


def functions() -> dict[str, tuple[Callable[..., Any], torch.Tensor]]:
    """Return functions with more columns than rows, and their points."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(32, 64)
    encoder = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True).eval()
    return {
        "mlp": (nn.Sequential(nn.Linear(1000, 2000), nn.GELU(), nn.Linear(2000, 500)), torch.randn(1000)),
        "cnn": (
            nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 8, 3, stride=4), nn.Flatten(0)),
            torch.randn(1, 3, 32, 32),
        ),
        "lstm cell": (lambda xs: unroll(cell, xs), torch.randn(32, 1, 32)),
        "transformer": (lambda x: encoder(x).mean(1), torch.randn(1, 32, 64)),
        "resnet-18": (ResNet18Features().eval(), torch.randn(1, 3, 96, 96)),
    }


def unroll(cell: nn.LSTMCell, xs: torch.Tensor) -> torch.Tensor:
    """Return the last state of a recurrent cell."""
    state = None
    for x in xs:
        state = cell(x, state)
    return state[0]


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    print("function      rows x columns      rival chunk  first call  plan.run  peak")
    rows = [_compare(name, func, x, n_rounds=3 if quick else 9) for name, (func, x) in functions().items()]
    for key in ("first_call_ratio", "plan_run_ratio"):
        print(f"geometric mean of {key}: {math.exp(sum(math.log(row[key]) for row in rows) / len(rows)):.2f}")
    return rows


def _compare(name: str, func: Callable[..., Any], x: torch.Tensor, n_rounds: int) -> dict[str, Any]:
    """Return the times of all sides on one function."""
    budget = cj.plan(func, x, mode="reverse").result_bytes + BUDGET_BESIDE_RESULT_BYTES
    plan = cj.plan(func, x, mode="reverse", max_memory=budget)

    def rival(size: int | None) -> torch.Tensor:
        with torch.no_grad():
            return torch.func.jacrev(func, chunk_size=size)(x)

    rivals = {size: partial(rival, size) for size in CHUNK_SIZES if size is None or size < plan.n_directions}
    ours = {"first call": partial(cj.jacobian, func, x, mode="reverse", max_memory=budget), "plan.run": plan.run}
    times_s = medians_s({**rivals, **ours}, n_rounds)
    best = min(rivals, key=lambda size: times_s[size])
    row = {
        "function": name,
        "rows": plan.n_outputs,
        "columns": plan.n_inputs,
        "rival_s": times_s[best],
        "rival_chunk_size": best or "all",
        "first_call_ratio": times_s["first call"] / times_s[best],
        "plan_run_ratio": times_s["plan.run"] / times_s[best],
        "peak_bytes": plan.run(return_report=True)[1].peak_bytes,
        "budget_bytes": budget,
    }
    shape = f"{plan.n_outputs} x {plan.n_inputs}"
    print(
        f"{name:<12} {shape:>15} {times_s[best] * 1e3:>7.1f} ms {best or 'all':>5} {row['first_call_ratio']:>11.2f}"
        f" {row['plan_run_ratio']:>9.2f}  {format_bytes(row['peak_bytes'])}"
    )
    return row
