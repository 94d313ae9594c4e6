"""The two figures of the paper: derivative and error against delta, measured and drawn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from benchmarks.paper_way import all_at_once, errors_of, network
from chunkjac.compat import JacrevFinite

_COLOURS = {
    "plus, float64": "tab:blue",
    "central, float64": "tab:green",
    "plus, float32, all at once": "tab:red",
    "plus, float32": "tab:orange",
    "central, float32": "tab:purple",
}


def against_delta(*, quick: bool) -> list[dict[str, Any]]:
    """Return errors for deltas from 1e-1 to 1e-10, of the paper's network and of a smooth one."""
    per_decade = 1 if quick else 4
    deltas = [10 ** (-1 - i / per_decade) for i in range(9 * per_decade + 1)]
    rows = []
    for name, activation in (("relu", nn.ReLU), ("tanh", nn.Tanh)):
        rows += _of_network(name, network(5, 128, 3, activation), deltas)
    _print_best(rows)
    return rows


def _of_network(name: str, net: nn.Module, deltas: Sequence[float]) -> list[dict[str, Any]]:
    """Return what each side makes of each delta, and of the step that chunkjac finds."""
    x = torch.randn(100, 5, dtype=torch.float64)
    single, x_single = copy.deepcopy(net).float(), x.float()
    expected = torch.func.jacrev(net)(x).detach()
    at = int(expected.abs().argmax())
    sides: dict[str, Callable[[float], torch.Tensor]] = {
        "plus, float64": lambda delta: JacrevFinite(function=net, num_args=0, delta=delta)(x),
        "central, float64": lambda delta: cj.jacfd(net, step=delta)(x),
        "plus, float32, all at once": lambda delta: all_at_once(single, [x_single], delta=delta).detach(),
    }
    defaults = {
        "plus, float64, default step": cj.jacfd(net, scheme="forward")(x),
        "central, float64, default step": cj.jacfd(net)(x),
        "plus, float32, default step": JacrevFinite(function=single, num_args=0)(x_single),
        "central, float32, default step": cj.jacfd(single)(x_single),
    }
    found = [(side, delta, compute(delta)) for side, compute in sides.items() for delta in deltas]
    found += [(side, None, jacobian) for side, jacobian in defaults.items()]
    rows = []
    for side, delta, jacobian in found:
        row = {"part": "delta", "network": name, "side": side, "delta": delta, "default_step": default_step(side)}
        row |= {"derivative": jacobian.reshape(-1)[at].item(), "autograd": expected.flatten()[at].item()}
        mean, most = errors_of(jacobian.double(), expected)
        rows.append({**row, "mean_error": mean, "max_error": most})
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the derivative and the error against delta, beside the picture's name that is given."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    of_delta = [row for row in rows if row["part"] == "delta"]
    for number, panel in enumerate((_derivative, _error), start=1):
        figure, axes = pyplot.subplots(1, 2, figsize=(12, 6), constrained_layout=True)
        for axis, name in zip(axes, ("relu", "tanh")):
            of_network = [row for row in of_delta if row["network"] == name]
            panel(axis, of_network)
            axis.set_xscale("log")
            axis.set(xlabel="delta", title=f"{name} network")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        figure.savefig(path.with_name(f"{path.stem}_figure_{number}.png"), dpi=110)
        pyplot.close(figure)


def _derivative(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the largest entry of the Jacobian as each delta gives it: figure 1 of the paper."""
    exact = rows[0]["autograd"]
    axis.axhline(exact, color="black", lw=0.8, label="autograd")
    for side, of_side in _curves(rows).items():
        deltas, found = [row["delta"] for row in of_side], [row["derivative"] for row in of_side]
        axis.plot(deltas, found, color=_COLOURS[side], label=side)
    _mark_default_steps(axis, rows, "derivative")
    axis.set(ylabel="derivative", ylim=sorted((-0.2 * exact, 2 * exact)))


def _error(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Draw mean and max error against delta, and the mean error of default steps: figure 2 of the paper."""
    for side, of_side in _curves(rows).items():
        deltas, colour = [row["delta"] for row in of_side], _COLOURS[side]
        axis.plot(deltas, [row["mean_error"] for row in of_side], color=colour, label=f"{side}, mean")
        axis.plot(deltas, [row["max_error"] for row in of_side], "--", color=colour, lw=0.8, label=f"{side}, max")
    _mark_default_steps(axis, rows, "mean_error")
    axis.set_yscale("log")
    axis.set(ylabel="error")


def _mark_default_steps(axis: Any, rows: list[dict[str, Any]], key: str) -> None:
    """Draw a star where the step is that chunkjac finds for elements of up to 1."""
    for row in rows:
        if row["delta"] is None:
            colour = _COLOURS[row["side"].removesuffix(", default step")]
            axis.plot(row["default_step"], row[key], "*", ms=13, color=colour, mec="black", label=row["side"])


def _curves(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows that have a delta, for each side."""
    sides = dict.fromkeys(row["side"] for row in rows if row["delta"] is not None)
    return {side: [row for row in rows if row["side"] == side and row["delta"] is not None] for side in sides}


def default_step(side: str) -> float:
    """Return the step that chunkjac finds for elements of up to 1."""
    eps = torch.finfo(torch.float32 if "float32" in side else torch.float64).eps
    return float(eps ** (1 / 3 if side.startswith("central") else 1 / 2))


def _print_best(rows: Sequence[dict[str, Any]]) -> None:
    """Print, for each network and side, which delta is best and what the default step does."""
    for name, side in dict.fromkeys((row["network"], row["side"]) for row in rows):
        of_side = [row for row in rows if (row["network"], row["side"]) == (name, side)]
        best = min(of_side, key=lambda row: row["mean_error"])
        at = "default" if best["delta"] is None else f"best delta {best['delta']:.0e}"
        print(f"{name}, {side:<28} {at:<18} mean error {best['mean_error']:.1e}, max {best['max_error']:.1e}")
