"""Ours against the rival on the functions of the zoo: how rounds are run, and how a table is printed and drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map

import chunkjac as cj
from benchmarks.architectures import Architecture
from benchmarks.record import geometric_mean
from benchmarks.zoo import Entry, functions


def warm_up(device: str) -> None:
    """Let the process do, for every side, what it does once: the first ``vmap`` imports for a second."""
    net, x = torch.nn.Linear(8, 8).to(device), torch.randn(8, device=device)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        transform(net)(x)
    cj.jacobian(net, x)
    plan = cj.plan(net, x)
    for _ in range(3):
        plan.run(x)


def n_rounds(entry: Entry, *, quick: bool) -> int:
    """Return how often all sides take turns: short ones are the noisier."""
    return (2 if quick else 5) if entry.size == "large" else (7 if quick else 15)


def neighbour(case: Architecture) -> tuple[Any, ...]:
    """Return another point of the same shapes, near the first."""
    generator = torch.Generator().manual_seed(1)

    def move(x: torch.Tensor) -> torch.Tensor:
        return x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)

    return (tree_map(move, case.args[0]), *copy.copy(case.args[1:]))


def rows_of(
    sizes: tuple[str, ...],
    measure: Callable[[Entry], dict[str, Any] | None],
    line: Callable[[dict[str, Any]], str],
    *,
    quick: bool,
) -> list[dict[str, Any]]:
    """Return a row for each function of the zoo; one that fails is a row that says so, and the others go on."""
    rows = []
    for entry in functions(*sizes, quick=quick):
        start = {"function": entry.name, "size": entry.size, "rows": entry.n_outputs, "columns": entry.n_inputs}
        name = f"{entry.name:<20} {entry.size:<6} {f'{entry.n_outputs} x {entry.n_inputs}':>14}"
        try:
            row = measure(entry)
        except Exception as error:
            said = str(error).strip().splitlines() or [""]
            rows.append({**start, "failed": f"{type(error).__name__}: {said[0]}"})
            print(f"{name} failed: {rows[-1]['failed'][:120]}", flush=True)
            continue
        rows.append({**start, **row})
        print(f"{name} {line(rows[-1])}", flush=True)
    return rows


def summarise(rows: Iterable[dict[str, Any]], key: str, what: str) -> None:
    """Print the geometric mean and the worst of a ratio."""
    named = {", ".join(filter(None, (row["function"], row.get("size")))): row for row in rows}
    failed = [name for name, row in named.items() if "failed" in row]
    ratios = {name: row[key] for name, row in named.items() if row.get(key) is not None}
    if ratios:
        worst = max(ratios, key=ratios.__getitem__)
        mean = geometric_mean(ratios.values())
        print(f"{what}: geometric mean {mean:.2f} of {len(ratios)}, worst {ratios[worst]:.2f} ({worst})")
    if failed:
        print(f"{what}: failed: {', '.join(failed)}")


def draw_ratios(rows: list[dict[str, Any]], path: Path, keys: dict[str, str], title: str) -> None:
    """Draw a dot for each function and ratio, on a logarithmic axis; below 1 is faster."""
    try:
        from matplotlib import pyplot
        from matplotlib.ticker import NullFormatter, ScalarFormatter
    except ImportError:
        print("without the package matplotlib, nothing is drawn")
        return
    done = sorted((row for row in rows if row.get(next(iter(keys))) is not None), key=lambda row: row[next(iter(keys))])
    if not done:
        return
    names = [f"{row['function']}{', ' + row['size'] if 'size' in row else ''}" for row in done]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.22 * len(done)), constrained_layout=True)
    for key, label in keys.items():
        found = [(row[key], place) for place, row in enumerate(done) if row.get(key) is not None]
        axes.plot(*zip(*found), "o", ms=5, alpha=0.8, label=label)
    axes.axvline(1, color="black", lw=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks([x for x in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if _spans(done, keys, x)])
    axes.set_yticks(range(len(done)), names, fontsize=8)
    axes.set(xlabel="time, as a ratio (below 1 is faster)", title=title)
    axes.grid(axis="x", lw=0.3)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _spans(rows: list[dict[str, Any]], keys: dict[str, str], x: float) -> bool:
    """Tell whether a tick is near what is drawn."""
    values = [row[key] for row in rows for key in keys if row.get(key) is not None]
    return min(*values, 1) / 2 <= x <= 2 * max(*values, 1)
