"""Small and odd functions: no job is slower than by hand.

First calls of ``cj.jacobian`` (or ``cj.hessian``), and the third ``plan.run`` and later ones, against the fastest of
``torch.func.jacrev`` over chunk sizes and ``jacfwd`` (of Hessians: all four compositions, and both of ``grad``), with
nothing counted for finding it, all under ``no_grad``. Medians; the sides take turns. Aims: runs of a plan at most 1.05
where the rival takes more than 2 ms, 1.2 below; first calls at most 1.3, 1.0 in the mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import chunkjac as cj
from benchmarks import tail_of_networks, tail_of_physics, tail_of_statistics
from benchmarks.architectures import Architecture
from benchmarks.contest import neighbour, summarise, warm_up
from benchmarks.record import medians_s, relative_error
from benchmarks.rival import find_rival

PACKAGES = ("gpytorch",)

_PARTS = (tail_of_networks, tail_of_physics, tail_of_statistics)
_SHORT_S = 0.002
_ROUNDS, _QUICK_ROUNDS, _ALL_S = 25, 7, 3.0


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warnings.simplefilter("ignore")
    warm_up("cpu")
    rows = []
    for name, make, is_hessian in _functions():
        rows.append({"function": name})
        try:
            rows[-1] |= _compare(make, is_hessian=is_hessian, n_rounds=_QUICK_ROUNDS if quick else _ROUNDS)
        except Exception as error:
            rows[-1]["failed"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            print(f"{name:<28} failed: {rows[-1]['failed'][:120]}", flush=True)
            continue
        print(_line(rows[-1]), flush=True)
    for word, is_short in (("above", False), ("below", True)):
        chosen = [row for row in rows if (row.get("rival_s", 0) < _SHORT_S) is is_short]
        summarise(chosen, "plan", f"plan.run / rival, {word} 2 ms")
    summarise(rows, "first", "first call / rival")
    return rows


def _functions() -> Iterator[tuple[str, Callable[[], Architecture], bool]]:
    """Yield names, what makes a function, and whether its Hessian is asked for."""
    for part in _PARTS:
        for make in part.JACOBIANS:
            yield make.__name__, make, False
        for make in part.HESSIANS:
            yield f"{make.__name__}, Hessian", make, True


def _compare(make: Callable[[], Architecture], *, is_hessian: bool, n_rounds: int) -> dict[str, Any]:
    """Return the times of all sides, and how far their values are apart."""
    torch.manual_seed(0)
    case = make()
    rival_name, rival = _hessian_rival(case) if is_hessian else _jacobian_rival(case)
    first = torch.no_grad()(cj.hessian(case.func)) if is_hessian else partial(cj.jacobian, case.func, progress=False)
    plan = cj.plan(torch.func.grad(case.func) if is_hessian else case.func, *case.args)
    for _ in range(2):
        plan.run(*case.args)
    sides = {name: partial(side, *case.args) for name, side in (("rival", rival), ("first", first), ("plan", plan.run))}
    once_s = sum(medians_s(sides, 1).values())
    times_s = medians_s(sides, max(3, min(n_rounds, int(_ALL_S / once_s))))
    planned, elsewhere = plan.run(*case.args, return_report=True)[1].plan, neighbour(case)
    return {
        "rival": rival_name,
        "rival_s": times_s["rival"],
        **{name: times_s[name] / times_s["rival"] for name in ("first", "plan")},
        "mode": planned.mode,
        "rung": planned.rung,
        "relative_error": max(
            relative_error(first(*case.args), rival(*case.args)),
            relative_error(plan.run(*elsewhere), rival(*elsewhere)),
        ),
    }


def _jacobian_rival(case: Architecture) -> tuple[str, Callable[..., Any]]:
    """Return the fastest way to a Jacobian by hand."""
    with torch.no_grad():
        n_outputs = sum(leaf.numel() for leaf in tree_leaves(case.func(*case.args)))
    try:
        side = find_rival(case, n_outputs, sum(leaf.numel() for leaf in tree_leaves(case.args)))
    except ValueError:  # torch.func has no rule for it
        return "row by row", lambda *args: torch.autograd.functional.jacobian(case.func, args[0])
    return side.name, side


def _hessian_rival(case: Architecture) -> tuple[str, Callable[..., Any]]:
    """Return the fastest way to a Hessian by hand."""
    transforms = {name: getattr(torch.func, name) for name in ("jacfwd", "jacrev", "grad")}
    ways = {
        f"{outer} of {inner}": torch.no_grad()(transforms[outer](transforms[inner](case.func)))
        for outer in ("jacfwd", "jacrev")
        for inner in transforms
    }
    times_s = {}
    for name, way in ways.items():
        try:
            times_s[name] = medians_s({name: partial(way, *case.args)}, 3)[name]
        except (RuntimeError, NotImplementedError):
            continue
    best = min(times_s, key=times_s.__getitem__)
    return best, ways[best]


def _line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    return (
        f"{row['function']:<28} {row['rival']:>16} {row['rival_s'] * 1e3:>8.2f} ms  first {row['first']:>5.2f}"
        f"  plan {row['plan']:>5.2f}  {row['mode']}, {row['rung']}; error {row['relative_error']:.0e}"
    )
