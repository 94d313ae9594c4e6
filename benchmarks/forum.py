"""Chunks fit in a budget that the forum's repeated inputs exceed.

The thread *Jacobians in PyTorch* has two ways to a Jacobian, each looped and repeated:

- rows by backward passes: one for each output; or the input repeated once for each output, and
  one backward pass with an identity;
- columns by double backward (the derivative of a backward pass with respect to its seed): one for
  each input; or the input repeated once for each input.

They stand beside ``cj.jacobian`` under a budget of the result and 64 MiB. Peaks are live bytes,
counted in the same way for all; where a side holds more than 2 GiB, its peak is of a dry run on
fake tensors, and it is not timed. What does not fit in the budget is timed without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import chunkjac as cj
from benchmarks.record import medians_s
from chunkjac._cli.demo import ResNet18Features
from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes

BUDGET_BESIDE_RESULT_BYTES = 64 * 2**20
MOST_BYTES = 2 * 2**30

SIDES = ("looped", "repeated", "chunked")


@dataclass(frozen=True, slots=True)
class Example:
    """Hold a network of batches, and a batch of one."""

    name: str
    mode: str
    net: nn.Module
    x: torch.Tensor


def looped_rows(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Pull back one output at a time."""
    x = x.detach().requires_grad_()
    y = net(x).flatten()
    rows = x.new_empty(y.numel(), x.numel())
    for i in range(y.numel()):
        rows[i] = torch.autograd.grad(y[i], x, retain_graph=True)[0].flatten()
    return rows


def repeated_rows(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Pull all outputs back at once, each through a copy of the input."""
    n_rows = _n_outputs(net, x)
    copies = _repeated(x, n_rows)
    rows = torch.autograd.grad(net(copies).flatten(1), copies, torch.eye(n_rows, dtype=x.dtype))[0]
    return rows.flatten(1)


def looped_columns(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Push one input at a time, by the derivative of the backward pass with respect to its seed."""
    x = x.detach().requires_grad_()
    y = net(x).flatten()
    seed = torch.zeros_like(y, requires_grad=True)
    pulled = torch.autograd.grad(y, x, seed, create_graph=True)[0].flatten()
    columns = x.new_empty(x.numel(), y.numel())
    for j in range(x.numel()):
        columns[j] = torch.autograd.grad(pulled[j], seed, retain_graph=True)[0]
    return columns.T


def repeated_columns(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Push all inputs at once, each through a copy of the input."""
    copies = _repeated(x, x.numel())
    y = net(copies).flatten(1)
    seed = torch.zeros_like(y, requires_grad=True)
    pulled = torch.autograd.grad(y, copies, seed, create_graph=True)[0].flatten(1)
    return torch.autograd.grad(pulled, seed, torch.eye(x.numel(), dtype=x.dtype))[0].T


RIVALS: dict[str, dict[str, Callable[[nn.Module, torch.Tensor], torch.Tensor]]] = {
    "reverse": {"looped": looped_rows, "repeated": repeated_rows},
    "forward": {"looped": looped_columns, "repeated": repeated_columns},
}


def examples(*, quick: bool) -> Iterator[Example]:
    """Yield networks with more columns than rows for reverse mode, then ones with more rows for forward mode."""
    torch.manual_seed(0)
    yield _example("MLP 100-200-50", "reverse", _mlp(100, 200, 50), 100)
    yield _example("MLP 1000-2000-500", "reverse", _mlp(1000, 2000, 500), 1000)
    cnn = nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 8, 3, stride=4), nn.Flatten()
    yield _example("two convolutions", "reverse", nn.Sequential(*cnn), 3, 32, 32)
    side = 32 if quick else 96
    yield _example(
        "ResNet-18, features of an image",
        "reverse",
        nn.Sequential(*list(ResNet18Features())[:-1], nn.Flatten()),
        3,
        side,
        side,
    )
    yield _example("MLP 50-200-100", "forward", _mlp(50, 200, 100), 50)
    yield _example("MLP 500-2000-1000", "forward", _mlp(500, 2000, 1000), 500)
    yield _example("decoder to an image of 3 x 32 x 32", "forward", _decoder(64, 32), 64)
    if not quick:
        yield _example("decoder to an image of 3 x 64 x 64", "forward", _decoder(256, 64), 256)


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    rows = []
    for example in examples(quick=quick):
        rows.append(_compare(example, n_rounds=2 if quick else 5))
        print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a row of a table: time and peak of each side, and what does not fit."""
    budget = format_bytes(row["budget_bytes"])
    cells = []
    for name in SIDES:
        side = row["sides"][name]
        peak, time = format_bytes(side["peak_bytes"]), _time(side["time_s"])
        cells.append(f"{time}, {peak}" if side["fits"] else f"does not fit in {budget}: {peak} ({time})")
    shape = f"{row['n_outputs']} x {row['n_inputs']}"
    return f"| {' | '.join((row['function'], row['mode'], shape, budget, *cells))} |"


def _compare(example: Example, n_rounds: int) -> dict[str, Any]:
    """Return time and memory of all sides on one network."""
    net, x = example.net, example.x
    n_outputs = _n_outputs(net, x)
    result_bytes = n_outputs * x.numel() * x.element_size()
    budget_bytes = result_bytes + BUDGET_BESIDE_RESULT_BYTES
    ours = partial(cj.jacobian, net, x, mode=example.mode, max_memory=budget_bytes)
    sides: dict[str, Callable[[], torch.Tensor]] = {
        **{name: partial(rival, net, x) for name, rival in RIVALS[example.mode].items()},
        "chunked": ours,
    }
    peaks_bytes = {name: _dry_peak_bytes(rival, net, x) for name, rival in RIVALS[example.mode].items()}
    found = {}
    for name, side in sides.items():
        if peaks_bytes.get(name, 0) <= MOST_BYTES:
            with LiveBytes(x.device) as live:
                found[name] = side().reshape(n_outputs, x.numel())
            peaks_bytes[name] = live.peak_bytes
    errors = {name: _error(jacobian, found["looped"]) for name, jacobian in found.items()}
    runnable = list(found)
    found.clear()
    times_s = medians_s({name: sides[name] for name in runnable}, n_rounds)
    return {
        "function": example.name,
        "mode": example.mode,
        "rung": ours(return_report=True)[1].plan.rung,
        "n_outputs": n_outputs,
        "n_inputs": x.numel(),
        "result_bytes": result_bytes,
        "budget_bytes": budget_bytes,
        "sides": {
            name: {
                "time_s": times_s.get(name),
                "peak_bytes": peaks_bytes[name],
                "fits": peaks_bytes[name] <= budget_bytes,
                "relative_error": errors.get(name),
            }
            for name in SIDES
        },
    }


def _dry_peak_bytes(rival: Callable[[nn.Module, torch.Tensor], torch.Tensor], net: nn.Module, x: torch.Tensor) -> int:
    """Return what a rival would hold, without computing anything."""
    with FakeTensorMode(allow_non_fake_inputs=True) as fake, LiveBytes(x.device, fake=fake) as live:
        rival(net, fake.from_tensor(x))
    return live.peak_bytes


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference, as a part of the largest entry."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def _n_outputs(net: nn.Module, x: torch.Tensor) -> int:
    """Return how many rows the Jacobian has."""
    with torch.no_grad():
        return net(x).numel()


def _repeated(x: torch.Tensor, n: int) -> torch.Tensor:
    """Return a batch of copies."""
    return x.detach().repeat(n, *(1,) * (x.dim() - 1)).requires_grad_()


def _example(name: str, mode: str, net: nn.Module, *shape: int) -> Example:
    """Return a network that is only evaluated, so that no side keeps graphs of its parameters."""
    return Example(name, mode, net.eval().requires_grad_(False), torch.randn(1, *shape))


def _mlp(n_in: int, n_hidden: int, n_out: int) -> nn.Module:
    """Return one hidden layer."""
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out))


def _decoder(n_in: int, side: int) -> nn.Module:
    """Return a network from a vector to an image."""
    start = nn.Linear(n_in, 4 * side * side), nn.Unflatten(1, (64, side // 4, side // 4)), nn.SiLU()
    up = nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 3, 4, 2, 1)
    return nn.Sequential(*start, *up, nn.Flatten())


def _time(time_s: float | None) -> str:
    """Return milliseconds, for people."""
    return "not timed" if time_s is None else f"{time_s * 1e3:.3g} ms" if time_s < 1 else f"{time_s:.3g} s"
