"""How results are measured, printed and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch

import chunkjac

RESULTS = Path(__file__).parent / "results"


def environment(device: str) -> dict[str, Any]:
    """Say on what a result was measured."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "date": date.today().isoformat(),
        "cpu": cpu or platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "chunkjac": chunkjac.__version__,
    }


def save(name: str, rows: list[dict[str, Any]], *, device: str = "cpu", quick: bool) -> Path:
    """Keep a result; a quick one does not replace a full one, nor one of another device."""
    RESULTS.mkdir(exist_ok=True)
    parts = [name, *([] if device == "cpu" else [device.replace(":", "_")]), *(["quick"] if quick else []), "json"]
    path = RESULTS / ".".join(parts)
    path.write_text(json.dumps({"environment": environment(device), "rows": rows}, indent=2) + "\n")
    return path


def medians_s(sides: dict[Any, Callable[[], object]], n_rounds: int) -> dict[Any, float]:
    """Return the median time of each side; the sides take turns, after one round that does not count."""
    times: dict[Any, list[float]] = {name: [] for name in sides}
    for i in range(n_rounds + 1):
        for name, side in sides.items():
            started_s = time.perf_counter()
            side()
            if i:
                times[name].append(time.perf_counter() - started_s)
    return {name: statistics.median(values) for name, values in times.items()}


def _lines(path: str) -> list[str]:
    """Return the lines of a file, if it is there."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []
