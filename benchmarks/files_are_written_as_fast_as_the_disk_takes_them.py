"""A Jacobian goes to disk as fast as the disk takes it, in little memory.

``cj.jacobian(torch.sin, x, mode="reverse", out="J.npy", max_memory="256MiB")``: 3 GiB of float32, a diagonal, of
which every element is computed and written. Against the same blocks written by ``pwrite`` and ``fdatasync``, one after
the other, in the same run and in turns. Aims: 0.80 of that throughput at least, and the process's resident set
300 MiB higher at most. Random rows are read back and compared, and products of the whole with random directions.
"""

from __future__ import annotations

import os
import tempfile
import time
from functools import partial
from math import isqrt
from pathlib import Path
from statistics import median
from typing import Any

import torch

import chunkjac as cj
from chunkjac._store.target import Target

_BYTES, _QUICK_BYTES = 3 * 2**30, 2**28


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    n = isqrt((_QUICK_BYTES if quick else _BYTES) // 4) + 1
    x = torch.linspace(-1, 1, n, device=device)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        times_s: dict[str, list[float]] = {"ours": [], "plain": []}
        rises_bytes = []
        for i in range(3):
            path = Path(folder) / f"{i}.npy"
            started_s = time.perf_counter()
            found, report = cj.jacobian(torch.sin, x, mode="reverse", out=path, max_memory="256MiB", return_report=True)
            times_s["ours"].append(time.perf_counter() - started_s)
            rises_bytes.append(report.process_rise_bytes)
            error, error_along = _largest_error(found, x), _largest_error_along(found, x)
            plan = Target.of(path).written_plan
            assert plan is not None
            (block_size,) = plan["layout"]["block_sizes"]
            times_s["plain"].append(_plain_s(Path(folder) / "plain", block_size * n * 4, n * n * 4))
            del found
            path.unlink()
    ours_s, plain_s = median(times_s["ours"]), median(times_s["plain"])
    row = {
        "n_bytes": n * n * 4,
        "block_bytes": block_size * n * 4,
        "ours_s": ours_s,
        "plain_s": plain_s,
        "throughput_ratio": plain_s / ours_s,
        "peak_bytes": report.peak_bytes,
        "process_rise_bytes": max(rises_bytes),
        "chunk_size": report.chunk_sizes[0],
        "rung": report.plan.rung,
        "largest_error": error,
        "largest_error_along": error_along,
    }
    print(
        f"{n} x {n}, {n * n * 4 / 2**30:.2f} GiB in blocks of {block_size * n * 4 / 2**20:.0f} MiB: ours "
        f"{ours_s:.2f} s, plain {plain_s:.2f} s, throughput {plain_s / ours_s:.2f} of plain; peak "
        f"{report.peak_bytes / 2**20:.0f} MiB, process rise {max(rises_bytes) / 2**20:.0f} MiB, "
        f"largest error {error:.0e}, along random directions {error_along:.0e}"
    )
    return [row]


def _largest_error_along(found: torch.Tensor, x: torch.Tensor) -> float:
    """Return the largest error of products with random directions, as a part of the largest product."""
    directions = torch.randn(len(x), 3, generator=torch.Generator().manual_seed(0))
    products = torch.cat([rows @ directions for rows in found.split(1024)])
    expected = x.cos().cpu()[:, None] * directions
    return ((products - expected).abs().max() / expected.abs().max()).item()


def _largest_error(found: torch.Tensor, x: torch.Tensor) -> float:
    """Return the largest error of some rows."""
    rows = torch.randint(len(x), (64,)).tolist()
    expected = x.cos().cpu()
    errors = []
    for i in rows:
        row = found[i].clone()
        row[i] -= expected[i]
        errors.append(row.abs().max().item())
    return max(errors)


def _plain_s(path: Path, block_bytes: int, n_bytes: int) -> float:
    """Return how long it takes to write as many bytes in blocks, each synchronised."""
    data = os.urandom(block_bytes)
    write = partial(os.pwrite, os.open(path, os.O_RDWR | os.O_CREAT))
    file = write.args[0]
    try:
        started_s = time.perf_counter()
        os.posix_fallocate(file, 0, n_bytes)
        for offset in range(0, n_bytes, block_bytes):
            write(data[: n_bytes - offset], offset)
            os.fdatasync(file)
        return time.perf_counter() - started_s
    finally:
        os.close(file)
        path.unlink()
