"""The neural tangent kernel of a network is made without its Jacobian, and faster.

``cj.gram`` of a network with a million parameters by its parameters, 10 inputs and 10 outputs each, so that the
Jacobian has 100 rows and 392 MiB in float32; against ``torch.func.jacrev`` and a matrix product, with all rows at once
and in chunks of 16, sides in turns. Aims: less memory than the Jacobian takes, the same kernel, no more time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from benchmarks.record import medians_s, relative_error
from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes

_LIMITS = (None, "128MiB", "32MiB", "16MiB")


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    torch.manual_seed(0)
    layers = [nn.Linear(64, 1024), nn.Tanh(), nn.Linear(1024, 928), nn.Tanh(), nn.Linear(928, 10)]
    net = nn.Sequential(*layers).to(device)
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    inputs = torch.randn(10, 64, device=device)

    def func(parameters: dict[str, torch.Tensor], inputs: torch.Tensor) -> Any:
        return torch.func.functional_call(net, parameters, (inputs,))

    n_parameters = sum(value.numel() for value in parameters.values())
    sides: dict[Any, Callable[[], Any]] = {
        f"jacrev, {size or 'all'}": partial(_by_hand, func, parameters, inputs, size) for size in (None, 16)
    }
    sides |= {limit: partial(cj.gram, func, parameters, inputs, max_memory=limit) for limit in _LIMITS}
    expected = _by_hand(func, {name: value.double() for name, value in parameters.items()}, inputs.double(), 16)
    times_s = medians_s(sides, 2 if quick else 7, device=device)
    rival_s = min(times_s["jacrev, all"], times_s["jacrev, 16"])
    rows = []
    for name, side in sides.items():
        with LiveBytes(torch.device(device)) as live:
            kernel = side()
        label = name if str(name).startswith("jacrev") else f"gram, {name or 'no limit'}"
        row = {
            "way": label,
            "jacobian_bytes": 100 * n_parameters * 4,
            "peak_bytes": live.peak_bytes,
            "time_s": times_s[name],
            "ratio": times_s[name] / rival_s,
            "relative_error": relative_error(kernel.double(), expected),
        }
        rows.append(row)
        print(
            f"{label:<18} {row['time_s']:>7.3f} s  {row['ratio']:>5.2f}  peak {format_bytes(live.peak_bytes):>10} "
            f"(Jacobian {format_bytes(row['jacobian_bytes'])})  relative error {row['relative_error']:.0e}",
            flush=True,
        )
    return rows


def _by_hand(
    func: Callable[..., Any], parameters: dict[str, torch.Tensor], inputs: torch.Tensor, size: int | None
) -> Any:
    """Return the kernel as a product of Jacobians."""
    with torch.no_grad():
        jacobian = torch.func.jacrev(func, chunk_size=size)(parameters, inputs)
        return sum(part.reshape(100, -1) @ part.reshape(100, -1).T for part in jacobian.values())
