"""Finite differences take little more than the evaluations of the function that they need.

``cj.jacobian(f, x, mode="finite-difference")`` against the bare evaluations: as many rows in batches of the
same sizes, on points made beforehand, under inference mode, their values thrown away. Aim: 1.10 at
most. Against the paper's way (all ``n + 1`` copies at once) at n = 3000: faster, and a tenth of the memory
beside the Jacobian, which both hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from benchmarks.architectures import Architecture, Scatter, UNet, runge_kutta
from benchmarks.contest import draw_ratios, summarise, warm_up
from benchmarks.paper_way import all_at_once
from benchmarks.record import medians_s, relative_error
from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes

# Evaluations for each direction, and whether the point itself is in every batch.
_EVALUATIONS = {"central": (2, 0), "forward": (1, 1)}
_BESIDE_RESULT_BYTES = 16 * 2**20


def functions(*, quick: bool) -> dict[str, Architecture]:
    """Return functions of one point, most of which take a batch of points as well."""
    torch.manual_seed(0)
    side = 16 if quick else 32
    mlp = nn.Sequential(nn.Linear(1000, 2000), nn.GELU(), nn.Linear(2000, 500))
    cnn = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 8, 3, stride=4), nn.Flatten(-3))
    encoder = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    field = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 256))
    graph = nn.Sequential(Scatter(150, 900, 8, 32), nn.ReLU(), Scatter(150, 900, 32, 4))
    u_net = UNet()

    def lorenz_96(x: torch.Tensor) -> torch.Tensor:
        return runge_kutta(lambda x: (x.roll(-1, -1) - x.roll(2, -1)) * x.roll(1, -1) - x + 8.0, x, 0.01, n_steps=10)

    return {
        "mlp": Architecture(mlp, (torch.randn(1000),), (mlp,)),
        "cnn": Architecture(cnn, (torch.randn(3, side, side),), (cnn,)),
        "u_net": Architecture(u_net, (torch.randn(1, side, side),), (u_net,)),
        "transformer": Architecture(encoder.eval(), (torch.randn(side, 64),), (encoder,)),
        "neural_ode": Architecture(lambda x: runge_kutta(field, x, 0.1, 10), (torch.randn(256),), (field,)),
        "lorenz_96": Architecture(lorenz_96, (8 + torch.randn(1000),)),
        "graph_network": Architecture(graph, (torch.randn(150, 8),), (graph,)),
    }


def run(*, quick: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    warm_up(device)
    rows = []
    for name, case in functions(quick=quick).items():
        for scheme in _EVALUATIONS:
            rows.append(_against_evaluations(name, case.to(torch.device(device)), scheme, 3 if quick else 9))
    summarise(rows, "first_call_ratio", "first call / bare evaluations")
    summarise(rows, "plan_run_ratio", "plan.run / bare evaluations")
    if device == "cpu":  # the paper's way has its identity there
        rows += [_against_paper(name, func, n_rounds=3 if quick else 7) for name, func in _at_3000().items()]
    return rows


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the ratios."""
    keys = {"first_call_ratio": "cj.jacobian, first call", "plan_run_ratio": "plan.run"}
    draw_ratios(rows, path, keys, "Finite differences against the bare evaluations")


def _against_evaluations(name: str, case: Architecture, scheme: str, n_rounds: int) -> dict[str, Any]:
    """Return the times of both sides."""
    call = partial(cj.jacobian, case.func, *case.args, mode="finite-difference", scheme=scheme)
    plan = cj.plan(case.func, *case.args, mode="finite-difference", scheme=scheme)
    sides: dict[str, Callable[[], object]] = {"first call": call, "plan.run": partial(plan.run, *case.args)}
    # Each of ours has its own chunk sizes, and so its own bare evaluations.
    for side, report in {
        "first call": call(return_report=True)[1],
        "plan.run": plan.run(*case.args, return_report=True)[1],
    }.items():
        sides[f"bare, {side}"] = partial(
            _evaluate, _batched(case.func, report.plan.rung), *_batches(case, report, scheme)
        )
    times_s = medians_s(sides, n_rounds, device=case.device)
    row = {
        "function": f"{name}, {scheme}",
        "rung": report.plan.rung,
        "columns": report.plan.n_inputs,
        "chunk_size": report.chunk_sizes[0],
        **{f"{side.replace(', ', ' ').replace('.', ' ').replace(' ', '_')}_s": time for side, time in times_s.items()},
        "first_call_ratio": times_s["first call"] / times_s["bare, first call"],
        "plan_run_ratio": times_s["plan.run"] / times_s["bare, plan.run"],
    }
    print(
        f"{row['function']:<24} {report.plan.n_outputs:>5} x {report.plan.n_inputs:<5} {row['rung']:<14} chunks of "
        f"{row['chunk_size']:<5} evaluations {times_s['bare, plan.run'] * 1e3:>7.1f} ms  first call "
        f"{row['first_call_ratio']:.2f}  plan.run {row['plan_run_ratio']:.2f}",
        flush=True,
    )
    return row


def _batches(case: Architecture, report: cj.Report, scheme: str) -> tuple[torch.Tensor, list[int]]:
    """Return points enough for the largest batch, and the sizes of all batches."""
    n_each, n_base = _EVALUATIONS[scheme]
    sizes = [n_each * size + n_base for size in report.chunk_sizes]
    x = case.args[0]
    return x + 0.001 * torch.randn(max(sizes), *x.shape, device=x.device), sizes


def _batched(func: Callable[..., Any], rung: str) -> Callable[..., Any]:
    """Return the function of a batch, as the rung has it."""
    if rung.startswith("native batch"):
        return func
    if rung.startswith("vmap"):
        return torch.func.vmap(func)
    return lambda points: [func(point) for point in points]


@torch.inference_mode()
def _evaluate(func: Callable[..., Any], points: torch.Tensor, sizes: list[int]) -> None:
    """Evaluate all batches."""
    for size in sizes:
        func(points[:size])


def _at_3000() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return the paper's product and a layer, of 3000 numbers."""
    torch.manual_seed(0)
    factor = torch.randn(3000, dtype=torch.float64)
    layer = nn.Sequential(nn.Linear(3000, 3000), nn.Tanh()).double().requires_grad_(False)
    return {"product": lambda x: x * factor, "linear layer, tanh": layer}


def _against_paper(name: str, func: Callable[[torch.Tensor], torch.Tensor], n_rounds: int) -> dict[str, Any]:
    """Return time and memory of ours and of all copies at once."""
    x = torch.randn(3000, dtype=torch.float64)
    result_bytes = x.numel() ** 2 * x.element_size()
    budget = result_bytes + _BESIDE_RESULT_BYTES
    options = {"mode": "finite-difference", "scheme": "forward", "step": 1e-5, "max_memory": budget}
    plan = cj.plan(func, x, **options)
    plan.run(x)
    paper = partial(all_at_once, func, [x])
    sides = {"paper": paper, "first call": partial(cj.jacobian, func, x, **options), "plan.run": partial(plan.run, x)}
    peaks_bytes, found = {}, {}
    for side, call in sides.items():
        with LiveBytes(x.device) as live:
            found[side] = call()
        peaks_bytes[side] = live.peak_bytes
    error = relative_error(found["first call"], found["paper"])
    found.clear()
    times_s = medians_s(sides, n_rounds)
    less = (peaks_bytes["paper"] - result_bytes) / max(
        1, max(peaks_bytes["first call"], peaks_bytes["plan.run"]) - result_bytes
    )
    print(
        f"{name}, n = 3000: all at once {times_s['paper']:.3f} s, {format_bytes(peaks_bytes['paper'])}; first call "
        f"{times_s['first call'] / times_s['paper']:.2f}, plan.run {times_s['plan.run'] / times_s['paper']:.2f} of its "
        f"time, {format_bytes(peaks_bytes['first call'])}: {less:.0f} times less beside the Jacobian of "
        f"{format_bytes(result_bytes)}, error {error:.0e}"
    )
    return {
        "function": f"{name}, against the paper's way",
        "columns": x.numel(),
        "result_bytes": result_bytes,
        "times_s": times_s,
        "peaks_bytes": peaks_bytes,
        "times_less_memory_beside_result": less,
        "relative_error": error,
    }
