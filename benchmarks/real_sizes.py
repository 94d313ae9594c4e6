"""Networks of some hundred million parameters: first calls, budgets and plans against the best chunk by hand.

``torch.func.jacrev`` under ``no_grad`` at its best chunk of 1 to 32 rows, with nothing counted for finding it, against
``cj.jacobian(f, x)``, the same with ``max_memory`` twice what ``jacrev`` holds at 4 rows, and the third ``plan.run``,
all with ``return_report=True``.
The sides take turns; medians. ``MiB`` are live tensors, ``foretold`` is what a report says was predicted, as a share of
them, and ``plan`` what ``cj.plan`` said of the first run. ``weights`` are the products of the weights alone, at chunks
of 4 rows, and ``least`` is the peak of eight rows, as a share of a ``max_memory`` of result, activations and one row's
working set.

Aims: first calls at most 1.05, third runs 0.95 at a peak of at most ``jacrev``'s at the same chunk, predictions within
a tenth.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from benchmarks.architectures import Architecture
from benchmarks.contest import summarise, warm_up
from benchmarks.record import medians_s, relative_error
from benchmarks.zoo_of_real_sizes import RealSize, networks
from chunkjac._memory.tracker import LiveBytes

PACKAGES = ("transformers", "diffusers")

_CHUNK_SIZES = (1, 2, 4, 8, 16, 32)
_SMALL_CHUNK = 4
_LEAST_ROWS = 8
_ROUNDS, _QUICK_ROUNDS = 3, 1
_MIB = 2**20


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warnings.simplefilter("ignore")
    warm_up("cpu")
    rows = []
    for network in networks(quick=quick):
        rows.append({"function": network.name, "rows": network.n_rows})
        try:
            rows[-1] |= _measured(network, _QUICK_ROUNDS if quick else _ROUNDS)
        except Exception as error:
            rows[-1]["failed"] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            print(f"{network.name} failed: {rows[-1]['failed']}", flush=True)
            continue
        print(_lines(rows[-1]), flush=True)
    for key, what in (("first", "first call"), ("in_a_budget", "in a budget"), ("third", "third run")):
        summarise(rows, key, f"{what} / the best by hand")
    return rows


def _measured(network: RealSize, n_rounds: int) -> dict[str, Any]:
    """Return the times of all sides, their peaks, and how far predictions are off."""
    case = network.build()
    by_hand = {size: partial(_by_hand, case, size) for size in _CHUNK_SIZES if size <= network.n_rows}
    _trial(by_hand[1])  # the first time does lazy work
    trials = {size: told for size, call in by_hand.items() if (told := _trial(call)) is not None}
    best = min(trials, key=lambda size: trials[size][0])
    budget_bytes = 2 * trials.get(_SMALL_CHUNK, trials[1])[1]
    plan = cj.plan(case.func, *case.args)
    foretold = plan.predicted_peak_bytes / plan.run(*case.args, return_report=True)[1].peak_bytes
    reports = {"second": plan.run(*case.args, return_report=True)[1]}
    found: dict[str, Any] = {}

    def kept(name: str, side: Any) -> Any:
        def call() -> None:
            found[name] = side()

        return call

    first = partial(cj.jacobian, case.func, *case.args, progress=False, return_report=True)
    sides = {
        "by hand": kept("by hand", by_hand[best]),
        "first": kept("first", first),
        "in_a_budget": kept("in_a_budget", partial(first, max_memory=budget_bytes)),
        "third": kept("third", partial(plan.run, *case.args, return_report=True)),
    }
    times_s = medians_s(sides, n_rounds, n_warm_up=0)
    reports |= {name: found[name][1] for name in ("first", "in_a_budget", "third")}
    row = {
        "by_hand_chunk": best,
        "by_hand_s": times_s["by hand"],
        "by_hand_bytes": trials[best][1],
        "trials_s": {size: told[0] for size, told in trials.items()},
        "weights": _weights_s(case, network.n_rows) / times_s["by hand"],
        "budget_bytes": budget_bytes,
        "plan_foretold": foretold,
        "relative_error": max(relative_error(found[name][0], found["by hand"]) for name in ("first", "third")),
        **_least(network),
    }
    for name, report in reports.items():
        if name in times_s:
            row[name] = times_s[name] / times_s["by hand"]
        row[f"{name}_rung"] = report.plan.rung
        row[f"{name}_chunk"] = max(report.chunk_sizes)
        row[f"{name}_bytes"] = report.peak_bytes
        row[f"{name}_foretold"] = report.plan.predicted_peak_bytes / report.peak_bytes
    there = trials.get(row["third_chunk"]) or _trial(partial(_by_hand, case, row["third_chunk"]))
    row["jacrev_bytes_at_its_chunk"] = there and there[1]
    return row


def _trial(side: Any) -> tuple[float, int] | None:
    """Return the time and the most live bytes of a call; ``None`` where torch.func cannot batch the function."""
    try:
        return _timed_and_counted(side)
    except RuntimeError:
        return None


def _least(network: RealSize) -> dict[str, Any]:
    """Return what result, activations and one row take, and what is held in a budget of that much."""
    case = RealSize(network.name, _LEAST_ROWS, network.make).build()

    def one_row() -> None:
        with torch.no_grad():
            out, pull = torch.func.vjp(case.func, *case.args)
            pull(torch.ones_like(out))

    least_bytes = _timed_and_counted(one_row)[1] + _LEAST_ROWS * case.args[0].nbytes
    try:
        report = cj.jacobian(case.func, *case.args, max_memory=least_bytes, return_report=True, progress=False)[1]
    except cj.BudgetError as error:
        return {"least_budget_bytes": least_bytes, "least": str(error).splitlines()[0]}
    return {"least_budget_bytes": least_bytes, "least": report.peak_bytes / least_bytes}


def _weights_s(case: Architecture, n_rows: int) -> float:
    """Return how long the products of gradients with weights take, which nothing can leave out."""
    shapes: list[tuple[int, torch.Tensor]] = []

    def note(module: nn.Module, _: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        weight = module.weight.mT if isinstance(module, nn.Linear) else module.weight
        shapes.append((out.numel() // out.shape[-1], weight))

    linear = [m for net in case.modules for m in net.modules() if type(m).__name__ in ("Linear", "Conv1D")]
    hooks = [module.register_forward_hook(note) for module in linear]
    with torch.no_grad():
        case.func(*case.args)
    for hook in hooks:
        hook.remove()
    seconds = 0.0
    for n_places, weight in shapes:
        gradient = torch.randn(_SMALL_CHUNK * n_places, weight.shape[1])
        with torch.no_grad():
            seconds += medians_s({"": partial(torch.mm, gradient, weight.mT)}, 3)[""]
    return seconds * n_rows / _SMALL_CHUNK


def _by_hand(case: Architecture, chunk_size: int) -> torch.Tensor:
    """Return the Jacobian by torch.func."""
    with torch.no_grad():
        return torch.func.jacrev(case.func, chunk_size=chunk_size)(*case.args)


def _timed_and_counted(side: Any) -> tuple[float, int]:
    """Return the time and the most live bytes of a call; beside operations of this size counting is nothing."""
    started_s = time.perf_counter()
    with LiveBytes(torch.device("cpu")) as live:
        side()
    return time.perf_counter() - started_s, live.peak_bytes


def _trials(row: dict[str, Any]) -> str:
    """Return the times by chunk size."""
    return ", ".join(f"{size}: {seconds:.1f}" for size, seconds in sorted(row["trials_s"].items()))


def _lines(row: dict[str, Any]) -> str:
    """Return a network's part of the table."""
    lines = [
        f"{row['function']} ({row['rows']} rows): by hand {row['by_hand_s']:.1f} s, chunks of {row['by_hand_chunk']}, "
        f"{row['by_hand_bytes'] // _MIB} MiB (by chunks {_trials(row)}); "
        f"weights {row['weights']:.2f}; error {row['relative_error']:.0e}"
    ]
    lines += [
        f"  {name:<12} {format(row[name], '.2f') if name in row else '':>5} {row[f'{name}_bytes'] // _MIB:>6} MiB, "
        f"foretold {row[f'{name}_foretold']:.2f}, chunks of {row[f'{name}_chunk']}, {row[f'{name}_rung']}"
        for name in ("first", "in_a_budget", "second", "third")
    ]
    least = row["least"] if isinstance(row["least"], str) else format(row["least"], ".2f")
    lines.append(
        f"  budget {row['budget_bytes'] // _MIB} MiB; jacrev at the third's chunk "
        f"{(row['jacrev_bytes_at_its_chunk'] or 0) // _MIB} MiB; plan {row['plan_foretold']:.2f}; least {least}"
    )
    return "\n".join(lines)
