"""How results are measured, printed and kept."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

import chunkjac

RESULTS = Path(__file__).parent / "results"


def environment(device: str, packages: Sequence[str] = ()) -> dict[str, Any]:
    """Say on what a result was measured, and with which versions of what it used."""
    packages = [name for name in packages if find_spec(name) is not None]
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
        **{name: version(name) for name in packages},
    }


def save(
    name: str, rows: list[dict[str, Any]], *, device: str = "cpu", quick: bool, packages: Sequence[str] = ()
) -> Path:
    """Keep a result; a quick one does not replace a full one, nor one of another device."""
    RESULTS.mkdir(exist_ok=True)
    parts = [name, *([] if device == "cpu" else [device.replace(":", "_")]), *(["quick"] if quick else []), "json"]
    path = RESULTS / ".".join(parts)
    path.write_text(json.dumps({"environment": environment(device, packages), "rows": rows}, indent=2) + "\n")
    return path


def medians_s(
    sides: Mapping[Any, Callable[[], object]], n_rounds: int, *, device: torch.device | str = "cpu", n_warm_up: int = 1
) -> dict[Any, float]:
    """Return the median time of each side; the sides take turns, after one round that does not count."""
    times = times_s(sides, n_rounds, device=device, n_warm_up=n_warm_up)
    return {name: statistics.median(values) for name, values in times.items()}


def times_s(
    sides: Mapping[Any, Callable[[], object]], n_rounds: int, *, device: torch.device | str = "cpu", n_warm_up: int = 1
) -> dict[Any, list[float]]:
    """Return the times of each side, in the order of the rounds; the first ones do not count."""
    device = torch.device(device)
    times: dict[Any, list[float]] = {name: [] for name in sides}
    for i in range(n_warm_up + n_rounds):
        for name, side in sides.items():
            synchronize(device)
            started_s = time.perf_counter()
            side()
            synchronize(device)
            if i >= n_warm_up:
                times[name].append(time.perf_counter() - started_s)
    return times


def synchronize(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given; it works on while Python does."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def geometric_mean(values: Iterable[float]) -> float:
    """Return the mean of ratios."""
    return statistics.geometric_mean(values)


def relative_error(found: Any, expected: Any) -> float:
    """Return the largest difference of two trees, as a part of the largest entry of the tensor it is in."""
    pairs = zip(tree_leaves(found), tree_leaves(expected), strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item() for a, b in pairs)


def _lines(path: str) -> list[str]:
    """Return the lines of a file, if it is there."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []
