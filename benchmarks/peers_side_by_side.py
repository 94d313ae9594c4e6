"""What else there is, on the same functions: time, memory and error of each, beside ``cj.jacobian``.

``torch.func`` (at its best of all chunk sizes and modes), ``torch.autograd.functional.jacobian`` row by row and
vectorised, TorchJD's ``autojac.jac``, the ways of the forum (repeated inputs), the paper's (all copies at
once), SciPy's ``approx_derivative`` and numdifftools. In double precision, which the last three need. A
side that takes more than a minute, fails, or would take more memory than there is, says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import nn

import chunkjac as cj
from benchmarks import zoo_of_ours
from benchmarks.architectures import Architecture, UNet, runge_kutta
from benchmarks.contest import warm_up
from benchmarks.forum import repeated_columns, repeated_rows
from benchmarks.paper_way import all_at_once
from benchmarks.record import medians_s, relative_error
from benchmarks.rival import find_rival, tracked_peak_bytes
from chunkjac._units import format_bytes

PACKAGES = ("scipy", "numdifftools", "torchjd")
_LONGEST_S = 60.0
_REPEATED_S = 5.0  # one run of a longer side is enough


class Flow(nn.Module):
    """Integrate a field of a network."""

    def __init__(self) -> None:
        super().__init__()
        self.field = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return runge_kutta(self.field, x, 0.1, 10)


def functions(*, quick: bool) -> dict[str, Architecture]:
    """Return networks of batches, each with a batch of one; their parameters want no gradients."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(32, 2, 128, dropout=0.0, batch_first=True)
    networks: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "mlp": (zoo_of_ours.mlp(200, 400, 100).modules[0], (1, 200)),
        "cnn": (zoo_of_ours.cnn(16, 16, 32).modules[0], (1, 3, 16, 16)),
        "transformer": (nn.Sequential(encoder, nn.Flatten(), nn.Linear(512, 40)), (1, 16, 32)),
        "neural_ode": (Flow(), (1, 64)),
        "u_net": (UNet(), (1, 1, 16, 16)),
        "transposed_decoder": (zoo_of_ours.transposed_decoder(32, 16, 32).modules[0], (1, 32)),
    }
    if quick:
        networks = {name: networks[name] for name in ("mlp", "neural_ode", "transposed_decoder")}
    return {
        name: Architecture(
            net.eval().double().requires_grad_(False), (torch.randn(shape, dtype=torch.float64),), (net,)
        )
        for name, (net, shape) in networks.items()
    }


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warm_up("cpu")
    rows = []
    for name, case in functions(quick=quick).items():
        net, x = case.func, case.args[0]
        expected = torch.func.jacrev(net)(x).reshape(-1, x.numel())
        n_outputs = len(expected)
        print(f"{name}, {n_outputs} x {x.numel()}")
        for side, call in _sides(case, n_outputs).items():
            row = {"function": name, "rows": n_outputs, "columns": x.numel(), "side": side}
            rows.append({**row, **_measure(side, call, case, expected, n_rounds=2 if quick else 7)})
            print(f"  {side:<44} {_said(rows[-1])}", flush=True)
    return rows


def _sides(case: Architecture, n_outputs: int) -> dict[str, Callable[[], Any]]:
    """Return all sides; those of packages that are not here are left out."""
    net, x = case.func, case.args[0]
    n_inputs = x.numel()
    rival = find_rival(case, n_outputs, n_inputs)
    plan = cj.plan(net, x)
    plan.run()
    functional = torch.autograd.functional.jacobian
    sides: dict[str, Callable[[], Any]] = {
        "cj.jacobian": partial(cj.jacobian, net, x),
        "plan.run": plan.run,
        "cj.jacobian, finite differences": partial(cj.jacobian, net, x, mode="finite-difference"),
        f"torch.func.{rival.name}": partial(rival, x),
        "torch.autograd.functional": partial(functional, net, x),
        "torch.autograd.functional, vectorize": partial(functional, net, x, vectorize=True),
        "torch.autograd.functional, forward": partial(functional, net, x, vectorize=True, strategy="forward-mode"),
        "forum, repeated rows": partial(repeated_rows, net, x),
        "forum, repeated columns": partial(repeated_columns, net, x),
        "paper, all at once": lambda: all_at_once(lambda rows: net(rows.flatten(0, 1)), [x]),
    }
    if find_spec("torchjd"):
        sides["torchjd.autojac.jac"] = partial(_by_torchjd, net, x)
    if find_spec("scipy"):
        sides["scipy approx_derivative, 2-point"] = partial(_by_scipy, net, x, "2-point")
        sides["scipy approx_derivative, 3-point"] = partial(_by_scipy, net, x, "3-point")
    if find_spec("numdifftools"):
        sides["numdifftools.Jacobian"] = partial(_by_numdifftools, net, x)
    return sides


def _measure(
    side: str, call: Callable[[], Any], case: Architecture, expected: torch.Tensor, n_rounds: int
) -> dict[str, Any]:
    """Return time, peak and error of a side, or why there are none."""
    try:
        started_s = time.perf_counter()
        found = torch.as_tensor(call()).reshape(expected.shape)
        first_s = time.perf_counter() - started_s
    except Exception as error:  # peers fail in ways of their own
        said = str(error).strip().splitlines() or [""]
        return {"failed": f"{type(error).__name__}: {said[0]}"}
    time_s = first_s if first_s > _REPEATED_S else medians_s({side: call}, n_rounds)[side]
    outside = side.startswith(("scipy", "numdifftools"))  # their arrays are NumPy's, which nobody counts
    peak_bytes = None if outside else tracked_peak_bytes(lambda *_: call(), case)
    return {"time_s": time_s, "peak_bytes": peak_bytes, "relative_error": relative_error(found, expected)}


def _by_torchjd(net: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return the rows that TorchJD makes, all in parallel."""
    from torchjd.autojac import jac

    x = x.detach().requires_grad_()
    return jac(net(x).flatten(), x)[0]


def _by_scipy(net: Callable[..., torch.Tensor], x: torch.Tensor, method: str) -> np.ndarray:
    """Return SciPy's differences, one column at a time."""
    from scipy.optimize._numdiff import approx_derivative

    return approx_derivative(_of_arrays(net, x), x.flatten().numpy(), method=method)


def _by_numdifftools(net: Callable[..., torch.Tensor], x: torch.Tensor) -> np.ndarray:
    """Return what numdifftools extrapolates from several steps."""
    import numdifftools

    return numdifftools.Jacobian(_of_arrays(net, x))(x.flatten().numpy())


def _of_arrays(net: Callable[..., torch.Tensor], x: torch.Tensor) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of flat arrays; it gives up when it has been called for too long."""
    end_s = time.monotonic() + _LONGEST_S

    def func(array: np.ndarray) -> np.ndarray:
        if time.monotonic() > end_s:
            raise TimeoutError(f"more than {_LONGEST_S:.0f} s")
        with torch.no_grad():
            return net(torch.as_tensor(array).reshape(x.shape)).flatten().numpy()

    return func


def _said(row: dict[str, Any]) -> str:
    """Return time, peak and error, for people."""
    if "failed" in row:
        return f"failed: {row['failed'][:90]}"
    peak = "" if row["peak_bytes"] is None else format_bytes(row["peak_bytes"])
    return f"{row['time_s'] * 1e3:>9.1f} ms {peak:>11}  error {row['relative_error']:.0e}"
