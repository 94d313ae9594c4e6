"""One measurement of the memory promise, in a process of its own; prints a line of JSON.

The process is started with ``MALLOC_MMAP_THRESHOLD_=65536 MALLOC_TRIM_THRESHOLD_=0``, so that
memory that is freed goes back to the system and the resident set follows the tensors.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import chunkjac as cj
from benchmarks.architectures import Architecture, build
from chunkjac._memory.budget import find_device
from chunkjac._memory.cpu import status_bytes
from chunkjac._memory.gauge import Gauge
from chunkjac._memory.out_of_memory import is_out_of_memory
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.differences.finite_difference import FiniteDifference
from chunkjac._modes.mode import Mode, ModeSummary
from chunkjac._problem.problem import Problem

MODES = {"reverse": Reverse, "forward": Forward, "finite-difference": FiniteDifference}
_MIB = 2**20

# The wall is on what CUDA's allocator reserves: segments of 2 and 20 MiB, of which blocks are
# cut, and cuBLAS's workspace. What it gives out is measured against the budget itself.
_WALL_FACTOR, _WALL_BYTES = 1.05, 8 * _MIB + 2 * 20 * _MIB + 2 * _MIB + 32 * _MIB


def measure(name: str, mode: str, beside_bytes: int, device: torch.device) -> dict[str, Any]:
    """Measure one architecture in one mode under the budget of its result and ``beside_bytes``."""
    case = build(name).to(device)
    try:
        facts = _warm_up(case, mode, device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        return {"outcome": "does not apply", "why": f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"}
    budget = facts.result_bytes + beside_bytes
    row = {"outcome": "done", "rows": facts.n_outputs, "columns": facts.n_inputs, "budget_bytes": budget}
    gc.collect()
    try:
        with _wall(device, budget), SystemPeak(device) as peak, _tracker(device) as tracker:
            _, report = cj.jacobian(case.func, *case.args, mode=mode, max_memory=budget, return_report=True)
    except cj.BudgetError as error:
        needs = {"needed_bytes": error.needed_bytes, "least_bytes": _least_bytes(case, mode, device)}
        why = f"needs {needs['least_bytes'] / _MIB:.1f} MiB, may hold {budget / _MIB:.1f} MiB"
        return {**row, **needs, "outcome": "refused", "why": why}
    row |= {
        "result_bytes": facts.result_bytes,
        "tracked_bytes": tracker.peak_bytes,
        "rise_bytes": peak.rise_bytes,
        "reported_rise_bytes": report.process_rise_bytes,
        "predicted_bytes": report.plan.predicted_peak_bytes,
        "chunk_sizes": sorted(set(report.chunk_sizes)),
        "n_retries": report.n_retries,
        "seconds": report.elapsed_s,
    }
    return row | _planned(case, mode, budget)


def _warm_up(case: Architecture, mode: str, device: torch.device) -> ModeSummary:
    """Compute small Jacobians, also by a program, and a small block: libraries are loaded, lazy work is done."""
    cj.jacobian(torch.sin, torch.ones(4, device=device), mode=mode, max_memory="64MiB", return_report=True)
    small = cj.plan(torch.nn.Linear(64, 64).to(device), torch.ones(64, device=device), mode=mode, max_memory="64MiB")
    for _ in range(3):
        small.run(return_report=True)
    made = _make(case, mode)
    made.block(slice(0, 2))
    return ModeSummary.of(made)


def _make(case: Architecture, mode: str) -> Mode:
    """Run the prologue of a mode."""
    made: Mode = MODES[mode](Problem.of(case.func, case.args, 0, has_aux=False))
    return made


def _planned(case: Architecture, mode: str, budget: int) -> dict[str, Any]:
    """Compare what a plan says before with what its run holds."""
    plan = cj.plan(case.func, *case.args, mode=mode, max_memory=budget)
    with _tracker(torch.device(plan.device)) as tracker:
        plan.run()
    return {"planned_bytes": plan.predicted_peak_bytes, "plan_run_bytes": tracker.peak_bytes}


def _least_bytes(case: Architecture, mode: str, device: torch.device) -> int:
    """Return what one direction at a time really holds, found by computing one without a limit."""
    with _tracker(device) as tracker:
        made = _make(case, mode)
        result_bytes, prologue_bytes = ModeSummary.of(made).result_bytes, tracker.peak_bytes
        tracker.restart_peak()
        made.block(slice(0, 1))
    return max(prologue_bytes, result_bytes + tracker.peak_bytes)


def _tracker(device: torch.device) -> LiveBytes:
    """Return what counts live bytes; on an accelerator its allocator's peak counts as well."""
    return LiveBytes(device, gauge=None if device.type == "cpu" else Gauge.of(device))


class SystemPeak:
    """Measure how far memory rises at its highest, as the system or the allocator counts it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.rise_bytes = 0

    def __enter__(self) -> SystemPeak:
        if self._device.type == "cpu":
            Path("/proc/self/clear_refs").write_text("5")  # the highest resident set begins anew
            self._before_bytes = status_bytes()["VmRSS"]
        else:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before_bytes = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *failure: object) -> None:
        on_cpu = self._device.type == "cpu"
        peak_bytes = status_bytes()["VmHWM"] if on_cpu else torch.cuda.max_memory_allocated(self._device)
        self.rise_bytes = peak_bytes - self._before_bytes


@contextmanager
def _wall(device: torch.device, budget: int) -> Iterator[None]:
    """Let the allocator refuse what the promise does not allow, on CUDA; give the fraction back after."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    allowed_bytes = torch.cuda.memory_reserved(device) + _WALL_FACTOR * budget + _WALL_BYTES
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed_bytes / total_bytes), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of fallbacks in vmap; they are the same everywhere
    name, mode, beside_mib, device_name = sys.argv[1:]
    print(json.dumps(measure(name, mode, int(beside_mib) * _MIB, find_device(device_name))))
