"""Probing and counting live bytes add at most 5 % or 10 ms to a call of a small function.

A first call, which knows nothing, against the same job run as a plan has it, with nothing probed
or counted. ``default`` is without ``max_memory``; ``tight`` is under the result and 64 MiB, where
live bytes are counted in the prologue, the probes and the first chunks. The functions of the
tests keep to the claim; networks of many operations do not all do so, and stand below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import chunkjac as cj
from benchmarks import architectures
from benchmarks.record import medians_s
from tests import zoo

TIGHT_BYTES = 64 * 2**20


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    small = {
        case.name: partial(cj.plan, case.func, *case.args, argnums=case.argnums) for case in zoo.examples(torch.float32)
    }
    built = {name: architectures.build(name) for name in ([] if quick else architectures.NAMES)}
    large = {f"{name} (network)": partial(cj.plan, case.func, *case.args) for name, case in built.items()}
    print(f"{'function':<34} {'mode':<18} {'planned run':>11} {'default':>16} {'tight':>16}")
    rows = []
    for name, planner in {**small, **large}.items():
        try:
            plan = planner()
        except Exception as error:
            print(f"{name:<34} left out: {type(error).__name__}")
            continue
        call = partial(cj.jacobian, *planner.args, **planner.keywords, mode=plan.mode)
        rows.append(_compare(name, plan, call, n_rounds=5))
    for kind, names in (("functions of the tests", small), ("networks", large)):
        for side in ("default", "tight"):
            of_kind = [row for row in rows if row["function"] in names]
            within = [row[f"{side}_s"] - row["planned_s"] <= max(0.010, 0.05 * row["planned_s"]) for row in of_kind]
            print(f"{kind}, {side}: {sum(within)} of {len(within)} within 5 % or 10 ms")
    return rows


def _compare(name: str, plan: cj.Plan, call: Callable[..., Any], n_rounds: int) -> dict[str, Any]:
    """Return the times of all sides on one function."""
    budget = plan.result_bytes + TIGHT_BYTES
    sides = {"planned": plan.run, "default": call, "tight": partial(call, max_memory=budget)}
    times_s = medians_s(sides, n_rounds)
    planned_s = times_s["planned"]
    row = {"function": name, "mode": plan.mode, **{f"{side}_s": seconds for side, seconds in times_s.items()}}
    added = [
        f"{(times_s[side] - planned_s) * 1e3:+7.1f} ms {times_s[side] / planned_s:5.2f}x"
        for side in ("default", "tight")
    ]
    print(f"{name:<34} {plan.mode:<18} {planned_s * 1e3:>8.1f} ms {' '.join(added)}")
    return row
