"""Functions that are hard to differentiate, and the page that says which way each of them takes.

``python -m tests.hard`` makes docs/functions.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import chunkjac as cj

D = torch.float64
MODES = ("reverse", "forward", "finite-difference")
PAGE = Path(__file__).parents[1] / "docs" / "functions.md"
# What is so from torch 2.14 on; the page is of torch 2.13, and says it.
IS_LATER = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 14)
CDIST = "| cdist | batched autograd.grad | none |"


@dataclass(frozen=True)
class Hard:
    """Hold a function that is hard to differentiate, and the rungs that can.

    Attributes:
        func: The function.
        x: Where.
        rungs: The rung for reverse and forward mode; ``None`` where there is no such derivative.
        tolerance: What its precision allows, absolutely; a tenth of the largest digits for differences.
        options: What ``jacobian`` needs to be told.
    """

    func: Callable[[torch.Tensor], torch.Tensor]
    x: torch.Tensor
    rungs: tuple[str | None, str | None]
    tolerance: float = 1e-9
    options: tuple[tuple[str, Any], ...] = ()


class OldSine(torch.autograd.Function):
    """Be written as functions were before torch.func."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * ctx.saved_tensors[0].cos()


class NumpySine(torch.autograd.Function):
    """Leave torch in both directions."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.from_numpy(np.sin(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(grad.numpy() * np.cos(ctx.saved_tensors[0].numpy()))


def _point(*shape: int, dtype: torch.dtype = D) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


def _net(*layers: nn.Module, dtype: torch.dtype = D) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*layers).to(dtype)
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    return net


ROWS, COLUMNS = "vmap(vjp)", "vmap(jvp)"
PLAIN, GRAD, BATCHED, BY_ROW = (
    "vmap(jvp), plain kernels",
    "vmap(vjp), grad mode on",
    "batched autograd.grad",
    "autograd.grad, row by row",
)
TWICE = "double backward"


def _hard() -> dict[str, Hard]:
    torch.manual_seed(0)
    small = _net(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6))
    lstm, gru = nn.LSTM(3, 4), nn.GRU(3, 4)
    norm = _net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    evaluating = _net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    embedding = _net(nn.Embedding(9, 5))[0]

    single = _net(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), dtype=torch.float32)
    brief = _net(nn.Linear(5, 7), nn.Tanh(), dtype=torch.bfloat16)

    def autocast(x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return single(x).float()

    def without_grad(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            scale = small[0].weight.sum(1)
        return small[0](x) * scale

    def save_on_cpu(x: torch.Tensor) -> torch.Tensor:
        with torch.autograd.graph.save_on_cpu():
            return small(x)

    def in_place(x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[0] = 2 * x[1]
        y[1:].copy_(x[:-1].sin())
        return y

    def inputs_embeds(x: torch.Tensor) -> torch.Tensor:
        return small(embedding(torch.tensor([1, 4])) * x)

    both_first = (ROWS, COLUMNS)
    return {
        "LSTM": Hard(lambda x: lstm(x)[0], _point(5, 1, 3, dtype=torch.float32), (GRAD, PLAIN), 1e-5),
        "GRU": Hard(lambda x: gru(x)[0], _point(5, 1, 3, dtype=torch.float32), both_first, 1e-5),
        "BatchNorm, train": Hard(norm.train(), _point(6, 3), (BATCHED, TWICE)),
        "BatchNorm, eval": Hard(evaluating.eval(), _point(6, 3), both_first),
        "Dropout, train, randomness='same'": Hard(
            nn.Sequential(small, nn.Dropout(0.5)).train(), _point(5), both_first, options=(("randomness", "same"),)
        ),
        "attention": Hard(
            lambda x: nn.functional.scaled_dot_product_attention(x, x, x),
            _point(1, 2, 4, 8),
            (ROWS, PLAIN),
        ),
        "MultiheadAttention": Hard(
            lambda x: attention(x, x, x)[0], _point(1, 4, 8, dtype=torch.float32), both_first, 1e-5
        ),
        "TransformerEncoderLayer": Hard(layer, _point(1, 4, 8, dtype=torch.float32), (ROWS, PLAIN), 1e-5),
        "item": Hard(lambda x: 2 * x if x.sum().item() > 0 else x.sin(), _point(5), both_first),
        "in-place": Hard(in_place, _point(5), both_first),
        "boolean mask": Hard(lambda x: x[x > 0].square().sum() * x, _point(5), both_first),
        "autograd.Function of old": Hard(OldSine.apply, _point(5), (BATCHED, TWICE)),
        "NumPy in backward": Hard(NumpySine.apply, _point(5), (BY_ROW, None)),
        "checkpoint": Hard(lambda x: checkpoint(small, x, use_reentrant=False), _point(5), (BATCHED, COLUMNS)),
        "save_on_cpu": Hard(save_on_cpu, _point(5), (BATCHED, COLUMNS)),
        "torch.compile": Hard(torch.compile(small, backend="aot_eager"), _point(5), both_first),
        "FFT": Hard(lambda x: torch.fft.rfft(x).abs(), _point(6), both_first),
        "inputs_embeds": Hard(inputs_embeds, _point(2, 5), both_first),
        "bfloat16 by autocast": Hard(autocast, _point(5, dtype=torch.float32), both_first, 2e-2),
        "bfloat16": Hard(brief, _point(5, dtype=torch.bfloat16), both_first, 5e-2),
        "a part under no_grad that x does not reach": Hard(without_grad, _point(5), both_first),
        "expanded input": Hard(lambda x: x.sin().cumsum(0), _point(5).expand(3, 5), both_first),
        "transposed input": Hard(lambda x: x.sin() @ x.T, _point(3, 4).T, both_first),
        "cdist": Hard(lambda x: torch.cdist(x, x + 1), _point(4, 3), (BATCHED, TWICE if IS_LATER else None)),
    }


HARD = _hard()


def true_jacobian(hard: Hard) -> torch.Tensor:
    """Return what plain autograd tells row by row, at the state of the generators that there is."""
    state = torch.get_rng_state()
    expected = torch.autograd.functional.jacobian(hard.func, hard.x)
    torch.set_rng_state(state)
    return expected


def rung_of(hard: Hard, mode: str) -> str | None:
    """Return the way that a mode takes; ``None`` where it has none. (What ``auto`` takes may go by the clock.)"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            report = cj.jacobian(hard.func, hard.x, mode=mode, return_report=True, **dict(hard.options))[1]
        except (RuntimeError, NotImplementedError):
            return None
    return report.plan.rung


def page() -> str:
    """Return the page, from what the functions do now."""
    rows = [
        f"| {name} | {' | '.join(rung_of(hard, mode) or 'none' for mode in MODES)} |" for name, hard in HARD.items()
    ]
    if IS_LATER:
        rows = [row.replace(CDIST.replace("none", TWICE), CDIST) for row in rows]
    return "\n".join([*_HEAD.splitlines(), *rows, *_TAIL.splitlines()]) + "\n"


_HEAD = """# Which functions work, and how

Functions that are known to be hard, and the rung that each mode takes for them; [how it works](how_it_works.md)
says what the rungs are. In each of these cases the Jacobian is compared with plain autograd, row by row.
`python -m tests.hard` makes this page, and a test compares the two. "None" is a mode that refuses the function
with an error, since torch has no such derivative. `mode="auto"` takes the faster mode of those that mean the same.

| function | reverse | forward | finite-difference |
|---|---|---|---|"""

_TAIL = """
[Operators](operators.md) has the same for the differentiable operators of torch, each with its own samples.

No rung of reverse mode takes reentrant checkpoints, which autograd itself refuses to differentiate by inputs
(`mode="auto"` takes finite differences). A part of the function under `torch.no_grad` that the input does reach
is a constant in reverse mode only, as in torch.func. From torch 2.14 on forward mode takes `cdist` by double backward;
the table is of torch 2.13."""

if __name__ == "__main__":
    PAGE.write_text(page())
