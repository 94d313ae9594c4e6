"""Beside the Jacobian, only one chunk is held; torch.func holds the Jacobian two or three times.

Live bytes of tensors, counted in the same way for both; a ResNet-18 (512 features of an image
of 3 x 96 x 96). ``torch.func.jacfwd`` takes no chunk size and is run on a smaller network.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from chunkjac._cli.demo import ResNet18Features
from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    torch.manual_seed(0)
    large, image = ResNet18Features().eval(), torch.randn(1, 3, 64 if quick else 96, 64 if quick else 96)
    small, x = nn.Sequential(nn.Linear(2000, 500), nn.Tanh(), nn.Linear(500, 1000)), torch.randn(2000)
    return [
        _compare("resnet-18, reverse, chunks of 28", large, image, "reverse", 28),
        _compare("mlp, reverse, chunks of 50", small, x, "reverse", 50),
        _compare("mlp, forward, chunks of 50 against all", small, x, "forward", 50),
    ]


def _compare(name: str, func: Callable[..., Any], x: torch.Tensor, mode: str, chunk_size: int) -> dict[str, Any]:
    """Return the peaks of both sides."""
    by_torch = torch.func.jacrev(func, chunk_size=chunk_size) if mode == "reverse" else torch.func.jacfwd(func)
    with LiveBytes(x.device) as theirs, torch.no_grad():
        expected = by_torch(x)
    with LiveBytes(x.device) as ours:
        found = cj.jacobian(func, x, mode=mode, chunk_size=chunk_size)
    result_bytes = found.numel() * found.element_size()
    error = ((found - expected).abs().max() / expected.abs().max()).item()
    print(
        f"{name:<40} J {format_bytes(result_bytes):>10}   torch.func {format_bytes(theirs.peak_bytes):>10} "
        f"({theirs.peak_bytes / result_bytes:.2f} J)   chunkjac {format_bytes(ours.peak_bytes):>10} "
        f"({ours.peak_bytes / result_bytes:.2f} J)   error {error:.1e}"
    )
    return {
        "case": name,
        "result_bytes": result_bytes,
        "torch_func_peak_bytes": theirs.peak_bytes,
        "chunkjac_peak_bytes": ours.peak_bytes,
        "relative_error": error,
    }
