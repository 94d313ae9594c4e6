"""Live bytes never exceed ``max_memory``, and are predicted before they are spent.

Architectures x modes x budgets of the result and 8, 32, 128, 512 MiB, each in a fresh process.
``tracked`` is counted by a tracker around the whole call, in every chunk; ``rise`` is what the
system saw (the highest resident set on the CPU; on CUDA the allocator's peak, and a hard wall
stands above what it may reserve). Both are shares of the budget. ``planned`` is what ``cj.plan``
said before, on fake tensors, as a share of what its run then held; ``fitted`` is the same of the
report, whose cost follows from the first chunks of the job itself. A refusal is right if one
direction, computed without a limit, holds more than the budget.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.architectures import NAMES
from chunkjac._units import format_bytes

MODES = ("reverse", "forward", "finite-difference")
BESIDE_RESULT_MIB = (8, 32, 128, 512)
QUICK = ("mlp", "cnn", "resnet", "causal_decoder", "lstm_cell_loop")

_MIB = 2**20
# Memory that is freed goes back to the system; processes that run side by side take one core each.
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    if device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"no {device} device is here: nothing was measured.")
    names, budgets = (QUICK, BESIDE_RESULT_MIB[:2]) if quick else (NAMES, BESIDE_RESULT_MIB)
    cases = list(product(names, MODES, budgets))
    print(f"{'architecture':<24} {'mode':<18} {'beside':>7} {'tracked':>9} {'rise':>9} {'fitted':>9} {'planned':>8}")
    rows = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for row in pool.map(lambda case: _measure(*case, device), cases):
            rows.append(row)
            print(_line(row), flush=True)
    _summarise(rows)
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw predicted against measured, and measured against allowed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = [row for row in rows if row["outcome"] == "done"]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5), constrained_layout=True)
    for mode in MODES:
        of_mode = [row for row in done if row["mode"] == mode]
        tracked = [row["plan_run_bytes"] / _MIB for row in of_mode]
        left.loglog(tracked, [row["planned_bytes"] / _MIB for row in of_mode], "o", ms=4, alpha=0.6, label=mode)
        budgets = [row["budget_bytes"] / _MIB for row in of_mode]
        right.loglog(budgets, [row["rise_bytes"] / _MIB for row in of_mode], "o", ms=4, alpha=0.6, label=mode)
    ends = [0.05, 1000]
    sizes = [2.0**power for power in range(2, 11)]
    left.loglog(ends, ends, "k-", lw=0.8, label="equal")
    left.set(xlabel="tracked peak, MiB", ylabel="planned peak, MiB", title="Predicted before it is spent")
    right.loglog(sizes, sizes, "k-", lw=0.8, label="budget")
    right.loglog(sizes, [1.05 * size + 8 for size in sizes], "k--", lw=0.8, label="1.05 x budget + 8 MiB")
    right.set(xlabel="budget, MiB", ylabel="rise of the process, MiB", title="Never over budget")
    for axes in (left, right):
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)


def _measure(name: str, mode: str, beside_mib: int, device: str) -> dict[str, Any]:
    """Measure one case in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory_child", name, mode, str(beside_mib), device]
    done = subprocess.run(command, env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True, check=False)
    row = {"architecture": name, "mode": mode, "beside_result_mib": beside_mib}
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        return {**row, "outcome": "failed", "why": f"exit code {done.returncode}: {said[-1]}"}
    return row | json.loads(done.stdout.splitlines()[-1])


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    start = f"{row['architecture']:<24} {row['mode']:<18} {row['beside_result_mib']:>3} MiB"
    if row["outcome"] != "done":
        return f"{start}   {row['outcome']}: {row['why']}"
    tracked, rise = row["tracked_bytes"] / row["budget_bytes"], row["rise_bytes"] / row["budget_bytes"]
    predicted, planned = row["predicted_bytes"] / row["tracked_bytes"], row["planned_bytes"] / row["plan_run_bytes"]
    return f"{start} {tracked:>9.1%} {rise:>9.1%} {predicted:>9.1%} {planned:>8.1%}"


def _summarise(rows: list[dict[str, Any]]) -> None:
    """Print what the claims come to, and the worst cases."""
    done = [row for row in rows if row["outcome"] == "done"]
    outcomes = {
        name: sum(row["outcome"] == name for row in rows) for name in ("done", "refused", "does not apply", "failed")
    }
    print(", ".join(f"{count} {name}" for name, count in outcomes.items()))
    refused = [row for row in rows if row["outcome"] == "refused"]
    wrong = [row for row in refused if row["least_bytes"] <= row["budget_bytes"]]
    print(f"refused though one direction fits: {len(wrong)} of {len(refused)}")
    over = [row for row in done if max(row["tracked_bytes"], row["plan_run_bytes"]) > row["budget_bytes"]]
    print(f"tracked peak over the budget: {len(over)} of {len(done)}")
    beyond = [row for row in done if row["rise_bytes"] > 1.05 * row["budget_bytes"] + 8 * _MIB]
    print(f"process rise over 1.05 x budget + 8 MiB: {len(beyond)} of {len(done)}")
    for what, predicted, tracked in (
        ("what plan() said", "planned_bytes", "plan_run_bytes"),
        ("what the first chunks told", "predicted_bytes", "tracked_bytes"),
    ):
        errors = {_name(row): abs(row[predicted] / row[tracked] - 1) for row in done}
        close = sum(error <= 0.10 for error in errors.values()) / len(errors)
        worst = max(errors, key=lambda name: errors[name])
        print(f"within 10 % of {what}: {close:.1%} of runs; worst {errors[worst]:.1%}, {worst}")
    for what, key in (("tracked", "tracked_bytes"), ("rise", "rise_bytes")):
        worst_row = max(done, key=lambda row: row[key] / row["budget_bytes"])
        budget = format_bytes(worst_row["budget_bytes"])
        print(f"highest {what}: {format_bytes(worst_row[key])} of {budget}, {_name(worst_row)}")


def _name(row: dict[str, Any]) -> str:
    """Return what a row is about."""
    return f"{row['architecture']} in {row['mode']} mode, result + {row['beside_result_mib']} MiB"
