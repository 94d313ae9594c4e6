"""Compute a Jacobian into a file, slowly enough to be stopped: ``python -m tests.killed_child PATH``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import chunkjac as cj

N_ROWS, N_COLUMNS = 640, 3000


def slow_rows(x: torch.Tensor) -> torch.Tensor:
    """Return numbers whose derivatives take a millisecond for each row."""
    return _Slow.apply(torch.linspace(0, 1, N_ROWS, dtype=x.dtype).outer(x).sin()).sum(1)


class _Slow(torch.autograd.Function):
    """Be the identity, with a backward pass that takes its time."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
        time.sleep(0.008)
        return grad.clone()

    generate_vmap_rule = True


def point() -> torch.Tensor:
    """Return the point."""
    return torch.linspace(-1, 1, N_COLUMNS)


def run(path: Path) -> torch.Tensor:
    """Compute it, or what is missing of it."""
    return cj.jacobian(slow_rows, point(), mode="reverse", chunk_size=8, out=path, resume=True, progress=_told)


def _told(progress: cj.Progress) -> None:
    """Print how far it is."""
    print(progress.before, progress.done, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.func.vmap(torch.sin)(torch.zeros(2))  # what it imports takes a second
    print("ready", flush=True)
    run(Path(sys.argv[1]))
    print("finished", flush=True)
