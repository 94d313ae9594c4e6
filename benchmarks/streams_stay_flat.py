"""Streamed to a callback, time per direction and memory stay flat from the first thousand directions to the last.

One Jacobian of 100,000 rows, which nobody holds, in one call: how long a row takes and what is held,
in windows along the way. (A function's own cost of a row grows with its outputs, so that
Jacobians of different sizes would tell of the function instead.) The time of a window is the median of
its blocks. Aim: within 10 %, and no more memory.
"""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import chunkjac as cj
from benchmarks.contest import warm_up
from benchmarks.record import synchronize
from chunkjac._units import format_bytes

_N_INPUTS = 64
_N_HIDDEN = 32


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warm_up(device)
    rows = []
    for i in range(1 if quick else 3):
        rows.append(_stream(20_000 if quick else 100_000, device, name=f"run {i + 1}"))
        _print(rows[-1])
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw time per direction along the way."""
    try:
        from matplotlib import pyplot
    except ImportError:
        print("without the package matplotlib, nothing is drawn")
        return
    figure, axes = pyplot.subplots(figsize=(8, 3.5), constrained_layout=True)
    for row in rows:
        windows = row["windows"]
        times_us = [window["direction_s"] * 1e6 for window in windows]
        axes.semilogx([window["directions"] for window in windows], times_us, "o-", ms=4, label=row["run"])
    axes.set(xlabel="directions done", ylabel="time per direction, us", title="Streamed to a callback")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


class _Watch:
    """Note when blocks arrive and what is held then; keep none of them."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.n_directions = 0
        self.total = torch.zeros((), device=device, dtype=torch.float64)
        self.seen: list[tuple[int, float, int]] = []

    def __call__(self, block: Any) -> None:
        """Take a block of rows."""
        self.n_directions += block.slice.stop - block.slice.start
        for leaf in tree_leaves(block.values):
            self.total += leaf.sum(dtype=torch.float64)
        synchronize(self._device)
        self.seen.append((self.n_directions, time.perf_counter(), _held_bytes(self._device)))


def _stream(n_outputs: int, device: str, name: str) -> dict[str, Any]:
    """Return time per direction and memory along one call."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(_N_INPUTS, _N_HIDDEN), nn.Tanh(), nn.Linear(_N_HIDDEN, n_outputs)).to(device)
    x = torch.randn(_N_INPUTS, device=device)
    watch = _Watch(x.device)
    _, report = cj.jacobian(net, x, mode="reverse", out=watch, return_report=True)
    windows = _windows(watch.seen)
    with torch.no_grad():
        sums = torch.func.vjp(net, x)[1](torch.ones(n_outputs, device=device))[0].double()
    return {
        "run": name,
        "rows": n_outputs,
        "columns": _N_INPUTS,
        "result_bytes": 4 * n_outputs * _N_INPUTS,
        "rung": report.plan.rung,
        "chunk_sizes": sorted(set(report.chunk_sizes)),
        "windows": windows,
        "last_to_first": windows[-1]["direction_s"] / windows[0]["direction_s"],
        "growth_bytes": windows[-1]["held_bytes"] - windows[0]["held_bytes"],
        "peak_bytes": report.peak_bytes,
        "relative_error": abs(watch.total.item() / sums.sum().item() - 1),
    }


def _windows(seen: list[tuple[int, float, int]]) -> list[dict[str, Any]]:
    """Return the median time per direction of blocks between marks that double, from the first thousand on."""
    blocks = [
        (n, (end_s - start_s) / (n - n_before), held_bytes)
        for (n_before, start_s, _), (n, end_s, held_bytes) in pairwise(seen)
        if n_before >= 1000
    ]
    windows: list[dict[str, Any]] = []
    while blocks:
        end = 2 * blocks[0][0]
        if 2 * end > blocks[-1][0]:
            end = blocks[-1][0] + 1  # what is left is no window of its own
        inside = [block for block in blocks if block[0] < end]
        blocks = blocks[len(inside) :]
        direction_s = statistics.median(block[1] for block in inside)
        windows.append({"directions": inside[-1][0], "direction_s": direction_s, "held_bytes": inside[-1][2]})
    return windows


def _held_bytes(device: torch.device) -> int:
    """Return what the process, or the allocator, holds now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def _print(row: dict[str, Any]) -> None:
    """Print the windows of a run, and what they come to."""
    for window in row["windows"]:
        time_us, held = window["direction_s"] * 1e6, format_bytes(window["held_bytes"])
        print(f"  up to {window['directions']:>7} directions: {time_us:>8.1f} us each, {held} held")
    print(
        f"{row['run']}: last to first {row['last_to_first']:.2f}, {row['growth_bytes'] / 2**20:+.1f} MiB; peak "
        f"{format_bytes(row['peak_bytes'])} for a Jacobian of {format_bytes(row['result_bytes'])}, error of its sum "
        f"{row['relative_error']:.0e}",
        flush=True,
    )
