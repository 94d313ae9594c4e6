"""From the second run on, a plan beats the best chunk size found by hand.

``plan.run(x)`` against the rival: the fastest of ``torch.func.jacrev`` over chunk sizes 16, 64, 256,
1024 and all, and of ``torch.func.jacfwd``, under no_grad, with no memory limit and nothing counted
for finding it. Medians; the sides take turns. What is compared of the values is another point
than the one that was timed. Aim: geometric mean 0.65 at most, worst 1.05.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import chunkjac as cj
from benchmarks.contest import draw_ratios, n_rounds, neighbour, rows_of, summarise, warm_up
from benchmarks.record import medians_s, relative_error
from benchmarks.rival import find_rival
from benchmarks.zoo import SIZES, Entry

PACKAGES = ("transformers",)


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warm_up(device)
    rows = rows_of(SIZES, partial(_compare, quick=quick, device=device), _line, quick=quick)
    summarise(rows, "ratio", "plan.run / rival")
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios."""
    draw_ratios(rows, path, {"ratio": "plan.run"}, "Runs of a plan against the best of torch.func")


def _compare(entry: Entry, *, quick: bool, device: str) -> dict[str, Any]:
    """Return the times of both sides, and how far their values are apart."""
    case = entry.build(device)
    rival = find_rival(case, entry.n_outputs, entry.n_inputs)
    plan = cj.plan(case.func, *case.args)
    plan.run(*case.args)  # the first run may learn something
    sides = {"rival": partial(rival, *case.args), "plan": partial(plan.run, *case.args)}
    times_s = medians_s(sides, n_rounds(entry, quick=quick), device=case.device)
    elsewhere = neighbour(case)
    found, report = plan.run(*elsewhere, return_report=True)
    return {
        "rival": rival.name,
        "rival_s": times_s["rival"],
        "plan_s": times_s["plan"],
        "ratio": times_s["plan"] / times_s["rival"],
        "mode": report.plan.mode,
        "rung": report.plan.rung,
        "chunk_size": report.chunk_sizes[0],
        "relative_error": relative_error(found, rival(*elsewhere)),
    }


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return (
        f"{row['rival']:>12} {row['rival_s'] * 1e3:>8.1f} ms  plan {row['plan_s'] * 1e3:>8.1f} ms {row['ratio']:>6.2f}"
        f"  {row['mode']}, {row['rung']}, chunks of {row['chunk_size']}, error {row['relative_error']:.0e}"
    )
