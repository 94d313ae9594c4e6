"""A first call of jacobian(), with all planning and tracing, pays for itself.

``cj.jacobian(f, x)``, a new call each time and no plan kept, against the rival: the fastest of
``torch.func.jacrev`` over chunk sizes 16, 64, 256, 1024 and all, and of ``torch.func.jacfwd``, under
no_grad, with nothing counted for finding it. What a process does once (its first ``vmap``) counts
for no side. Jobs are told apart by the rival's time. Aim: where it is more than a second, geometric mean 0.80 at most;
where it is 5 to 300 ms, 1.05, and worst 1.3.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import chunkjac as cj
from benchmarks.contest import draw_ratios, n_rounds, rows_of, summarise, warm_up
from benchmarks.record import medians_s, relative_error
from benchmarks.rival import find_rival
from benchmarks.zoo import SIZES, Entry

PACKAGES = ("transformers",)

# Seconds of the rival that tell jobs apart.
_BOUNDS_S = (0, 0.005, 0.3, 1, float("inf"))


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warm_up(device)
    rows = rows_of(SIZES, partial(_compare, quick=quick, device=device), _line, quick=quick)
    for low_s, high_s in pairwise(_BOUNDS_S):
        chosen = [row for row in rows if low_s <= row.get("rival_s", 0) < high_s]  # what failed is told once
        summarise(chosen, "ratio", f"first call / rival, which takes {low_s:g} to {high_s:g} s")
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios."""
    draw_ratios(rows, path, {"ratio": "cj.jacobian, first call"}, "First calls against the best of torch.func")


def _compare(entry: Entry, *, quick: bool, device: str) -> dict[str, Any]:
    """Return the times of both sides, and how far their values are apart."""
    case = entry.build(device)
    rival = find_rival(case, entry.n_outputs, entry.n_inputs)
    call = partial(cj.jacobian, case.func, *case.args)
    sides = {"rival": partial(rival, *case.args), "call": call}
    times_s = medians_s(sides, n_rounds(entry, quick=quick), device=case.device)
    found, report = call(return_report=True)
    return {
        "rival": rival.name,
        "rival_s": times_s["rival"],
        "call_s": times_s["call"],
        "ratio": times_s["call"] / times_s["rival"],
        "mode": report.plan.mode,
        "rung": report.plan.rung,
        "chunk_sizes": sorted(set(report.chunk_sizes)),
        "relative_error": relative_error(found, rival(*case.args)),
    }


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    sizes = ", ".join(map(str, row["chunk_sizes"]))
    return (
        f"{row['rival']:>12} {row['rival_s'] * 1e3:>8.1f} ms  call {row['call_s'] * 1e3:>8.1f} ms {row['ratio']:>6.2f}"
        f"  {row['mode']}, {row['rung']}, chunks of {sizes}, error {row['relative_error']:.0e}"
    )
