"""JAX's jitted ``jacrev`` and ``jacfwd``, on the same functions with the same weights, as an outside reference.

Times are of calls that are compiled already, and of plans that have tried what they try in their first runs;
compiling stands beside, as does our first call. JAX has as many threads as PyTorch, and both are measured in one
process, in turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

import chunkjac as cj
from benchmarks.contest import draw_ratios, summarise, warm_up
from benchmarks.record import medians_s, relative_error

PACKAGES = ("jax", "jaxlib")

# After so many runs a plan has found its chunk size, and whether its program pays.
_TRIED = 8


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    if find_spec("jax") is None:
        print("without the package jax, nothing is measured")
        return []
    os.environ.setdefault("NPROC", str(torch.get_num_threads()))  # XLA's threads
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from benchmarks.in_jax import pairs

    warm_up("cpu")
    rows = [_compare(name, pair, n_rounds=3 if quick else 11) for name, pair in pairs(quick=quick).items()]
    summarise(rows, "ratio", "plan.run / the faster of JAX")
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios."""
    draw_ratios(rows, path, {"ratio": "plan.run"}, "Runs of a plan against jitted JAX")


def _compare(name: str, pair: Any, n_rounds: int) -> dict[str, Any]:
    """Return the times of both libraries on one function."""
    import jax

    x_in_jax = jax.numpy.asarray(pair.x.numpy())
    compile_s: dict[str, float] = {}
    sides: dict[str, Callable[[], Any]] = {}
    for transform in (jax.jacrev, jax.jacfwd):
        started_s = time.perf_counter()
        compiled = jax.jit(transform(pair.in_jax)).lower(x_in_jax).compile()
        compile_s[transform.__name__] = time.perf_counter() - started_s
        sides[transform.__name__] = partial(_finished, compiled, x_in_jax)
    started_s = time.perf_counter()
    first, report = cj.jacobian(pair.func, pair.x, return_report=True)
    first_call_s = time.perf_counter() - started_s
    plan = cj.plan(pair.func, pair.x)
    for _ in range(_TRIED):
        plan.run(pair.x)
    sides["plan.run"] = partial(plan.run, pair.x)
    times_s = medians_s(sides, n_rounds)
    best = min(compile_s, key=times_s.__getitem__)
    theirs = torch.from_numpy(np.array(sides[best]()))
    row = {
        "function": name,
        "rows": report.plan.n_outputs,
        "columns": report.plan.n_inputs,
        "mode": report.plan.mode,
        "first_call_s": first_call_s,
        "plan_run_s": times_s["plan.run"],
        **{f"jax_{transform}_s": times_s[transform] for transform in compile_s},
        **{f"jax_{transform}_compile_s": seconds for transform, seconds in compile_s.items()},
        "ratio": times_s["plan.run"] / times_s[best],
        "relative_error": relative_error(first, theirs),
    }
    print(
        f"{name:<12} {row['rows']:>5} x {row['columns']:<5} plan.run {times_s['plan.run'] * 1e3:>8.1f} ms "
        f"({report.plan.mode}), first call {first_call_s * 1e3:>8.1f} ms; JAX "
        + ", ".join(
            f"{which} {times_s[which] * 1e3:.1f} ms (compiled in {compile_s[which]:.2f} s)" for which in compile_s
        )
        + f"; ratio {row['ratio']:.2f}, error {row['relative_error']:.0e}",
        flush=True,
    )
    return row


def _finished(compiled: Callable[[Any], Any], x: Any) -> Any:
    """Return what JAX computes when it is there; it computes while Python goes on."""
    return compiled(x).block_until_ready()
