"""Compute a Jacobian into a file, slowly enough to be stopped: ``python -m tests.killed_child PATH``."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import torch

import chunkjac as cj

N_ROWS, N_COLUMNS = 640, 1000


def rows(x: torch.Tensor) -> torch.Tensor:
    """Return numbers whose derivatives take a millisecond or so for eight rows."""
    generator = torch.Generator().manual_seed(0)
    for n_rows in (N_COLUMNS, N_COLUMNS, N_ROWS):
        x = (torch.randn(n_rows, len(x), generator=generator) @ x / len(x) ** 0.5).sin()
    return x


def point() -> torch.Tensor:
    """Return the point."""
    return torch.linspace(-1, 1, N_COLUMNS)


def run(path: Path) -> torch.Tensor:
    """Compute it, or what is missing of it."""
    return cj.jacobian(rows, point(), mode="reverse", chunk_size=8, out=path, resume=True, progress=_told)


def _told(progress: cj.Progress) -> None:
    """Print how far it is, and take some time."""
    print(progress.before, progress.done, flush=True)
    time.sleep(0.02)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes of a shell ignore it
    torch.set_num_threads(1)
    cj.jacobian(torch.sin, torch.zeros(3), mode="reverse", chunk_size=2)  # what it imports takes a second
    print("ready", flush=True)
    run(Path(sys.argv[1]))
    print("finished", flush=True)
