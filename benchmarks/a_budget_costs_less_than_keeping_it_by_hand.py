"""Under a budget, it is faster than the best chunk size that keeps to it by hand.

``max_memory`` is the result and 64 MiB. The rival is the fastest of ``torch.func.jacrev`` over chunk sizes
16, 64, 256, 1024 and all, among those whose tracked peak keeps under that budget. ``torch.func.jacfwd``
takes no chunk size: what it holds stands beside. Aim: geometric mean 0.75 at most, of first calls
and of the runs of a plan. Where no chunk size keeps under the budget, there is no ratio.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import chunkjac as cj
from benchmarks.architectures import Architecture
from benchmarks.contest import draw_ratios, n_rounds, rows_of, summarise, warm_up
from benchmarks.record import medians_s, relative_error
from benchmarks.rival import find_rival_within, sides, tracked_peak_bytes
from benchmarks.zoo import SIZES, Entry
from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes

PACKAGES = ("transformers",)
BESIDE_RESULT_BYTES = 64 * 2**20

# So many times the budget are too much anyway.
_ENOUGH = 16


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warm_up(device)
    rows = rows_of(SIZES, partial(_compare, quick=quick, device=device), _line, quick=quick)
    for key, what in (("first_call_ratio", "first call"), ("plan_run_ratio", "plan.run")):
        for size in SIZES:
            summarise([row for row in rows if row["size"] == size], key, f"{what} / rival, {size}")
    over = [row for row in rows if row.get("jacfwd_peak_bytes") and row["jacfwd_peak_bytes"] > row["budget_bytes"]]
    print(f"jacfwd holds more than the budget in {len(over)} of {sum('jacfwd_peak_bytes' in row for row in rows)}")
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios."""
    keys = {"first_call_ratio": "cj.jacobian, first call", "plan_run_ratio": "plan.run"}
    draw_ratios(rows, path, keys, "Under the result and 64 MiB, against jacrev at its best chunk that fits")


def _compare(entry: Entry, *, quick: bool, device: str) -> dict[str, Any]:
    """Return times and peaks of all sides."""
    case = entry.build(device)
    budget = 4 * entry.n_outputs * entry.n_inputs + BESIDE_RESULT_BYTES
    ours = partial(cj.jacobian, case.func, *case.args, max_memory=budget)
    plan = cj.plan(case.func, *case.args, max_memory=budget)
    plan.run(*case.args)
    calls = {"first call": ours, "plan.run": partial(plan.run, *case.args)}
    found = find_rival_within(case, entry.n_outputs, entry.n_inputs, budget)
    rival, rival_peak_bytes = found or (None, None)
    if rival is not None:
        calls["rival"] = partial(rival, *case.args)
    times_s = medians_s(calls, n_rounds(entry, quick=quick), device=case.device)
    rival_s = times_s.get("rival")
    jacobian, report = ours(return_report=True)
    return {
        "budget_bytes": budget,
        "rival": rival.name if rival else None,
        "rival_s": rival_s,
        "rival_peak_bytes": rival_peak_bytes,
        "first_call_s": times_s["first call"],
        "plan_run_s": times_s["plan.run"],
        "first_call_ratio": rival_s and times_s["first call"] / rival_s,
        "plan_run_ratio": rival_s and times_s["plan.run"] / rival_s,
        "mode": report.plan.mode,
        "rung": report.plan.rung,
        "peak_bytes": report.peak_bytes,
        "plan_run_peak_bytes": tracked_peak_bytes(plan.run, case),
        "jacfwd_peak_bytes": _jacfwd_peak_bytes(case, entry, _ENOUGH * budget),
        "relative_error": relative_error(jacobian, rival(*case.args)) if rival else None,
    }


def _jacfwd_peak_bytes(case: Architecture, entry: Entry, limit_bytes: int) -> int | None:
    """Return what forward mode holds all at once: dry, or really where fake tensors cannot run the function.

    ``None`` if it fails, or really needs more than a limit: recurrent kernels take twice what their tensors tell.
    """
    side = next(side for side in sides(case.func, entry.n_outputs, entry.n_inputs) if side.name == "jacfwd")
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake, LiveBytes(case.device, fake=fake) as live:
            side(*tree_map(lambda x: fake.from_tensor(x) if isinstance(x, torch.Tensor) else x, case.args))
        return live.peak_bytes
    except Exception:  # fake tensors fail in many ways
        return tracked_peak_bytes(side, case, limit_bytes)


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    ours = f"call {row['first_call_s'] * 1e3:>8.1f} ms  plan {row['plan_run_s'] * 1e3:>8.1f} ms"
    if row["rival"] is None:
        rival, ratios = "no chunk size fits", "         -"
    else:
        rival = f"{row['rival']:>12} {row['rival_s'] * 1e3:>8.1f} ms"
        ratios = f"{row['first_call_ratio']:.2f} {row['plan_run_ratio']:.2f}"
    forward = "cannot run" if row["jacfwd_peak_bytes"] is None else format_bytes(row["jacfwd_peak_bytes"])
    peak, budget = format_bytes(row["peak_bytes"]), format_bytes(row["budget_bytes"])
    return f"{rival}  {ours}  {ratios}  peak {peak} of {budget}; jacfwd {forward}"
