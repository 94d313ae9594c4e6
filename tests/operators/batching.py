"""Which derivatives ``vmap`` batches rightly: ``python -m tests.operators.batching`` writes the list anew.

Each sample of each operator goes through ``vmap`` of its vjp and its jvp with several seeds at once, and with one after
the other, and so does its gradient. The nodes of autograd's graph that took part are right in batches if all samples in
which they did agree; where one differs, all of its nodes are left out, but for those of a gradient that are right in
operators.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from chunkjac._chunker.directions import ElementDirections
from chunkjac._chunker.seeds import Seeds
from chunkjac._modes.derivatives.derivative import Rung
from chunkjac._modes.derivatives.pullbacks import VmapGrad, VmapVjp
from chunkjac._modes.derivatives.pushforwards import VmapJvp
from chunkjac._modes.known_nodes import FILE, RELEASE
from chunkjac._problem.leaves import Leaf
from chunkjac._problem.problem import Problem
from chunkjac._tensors import same_to_rounding
from tests.operators.cases import Case, cases, names, seed

# What is added to the name of an operator whose gradient is looked at.
DIFFERENTIATED = ", differentiated"

# More directions tell nothing new.
_MOST = 24

Made = tuple[Rung, Sequence[Leaf]]


def reverse(problem: Problem) -> Made:
    rung = VmapVjp(problem)
    return rung, rung.outputs.leaves


def reverse_through_a_plain_graph(problem: Problem) -> Made:
    rung = VmapGrad(problem)
    return rung, rung.outputs.leaves


def forward(problem: Problem) -> Made:
    return VmapJvp(problem, VmapGrad(problem).outputs), problem.leaves


WAYS = {"backward": (reverse, reverse_through_a_plain_graph), "forward": (forward,)}


def main() -> None:
    chosen = sys.argv[1:] or names()
    found = {name: Found() for name in WAYS}
    plain = [*(case for name in chosen for case in cases(name)), *extra_cases()]
    for case in (*plain, *map(gradient_of, plain)):
        single = replace(case, inputs=tuple(x.float() for x in case.inputs))
        for name, ways in WAYS.items():
            for way in ways:
                for sample in (case, single):
                    found[name].add(sample, way)
    for name, each in found.items():
        print(f"{name}: {len(each.right)} nodes of {each.n_agreed} samples; {len(each.bad)} in samples that differ")
    if not sys.argv[1:]:
        n_samples = {name: each.n_agreed for name, each in found.items()}
        right = {name: each.right for name, each in found.items()}
        write_known("batched", n_operators=len(chosen), n_samples=n_samples, **right)


def write_known(what: str, **told: Any) -> None:
    """Write down what was found of the torch that is here, beside what else is known."""
    known = json.loads(FILE.read_text())
    known[what][RELEASE] = told
    FILE.write_text(json.dumps(known, indent=1) + "\n")


class Found:
    """Hold the nodes of samples that agreed, and of those that did not."""

    def __init__(self) -> None:
        self.good: set[str] = set()
        self.bad: set[str] = set()
        self.n_agreed = 0

    @property
    def right(self) -> list[str]:
        return sorted(name for name in self.good - self.bad if name.isidentifier())

    def add(self, case: Case, way: Callable[[Problem], Made]) -> None:
        told = verdict(case, way)
        if told is None:
            return
        nodes, agrees = told
        self.n_agreed += agrees
        if agrees:
            self.good.update(nodes)
            return
        if case.operator.endswith(DIFFERENTIATED):  # what is right in the operators themselves is not to blame
            nodes = nodes - (self.good - self.bad) or nodes
        self.bad.update(nodes)
        print(f"{case.operator}, sample {case.sample}, {way.__name__}: {', '.join(sorted(nodes))}")


def extra_cases() -> Iterator[Case]:
    """Yield what torch's samples leave out: numbers on the left, reshaped views, other layouts, fused layers."""
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64)
    tokens, image = torch.randn(2, 2, 5, 8), torch.randn(1, 2, 5, 5, dtype=torch.float64)
    lstm, gru = torch.nn.LSTM(4, 3, num_layers=2), torch.nn.GRU(4, 3)
    causal = torch.ones(5, 5, dtype=torch.bool).tril()
    attention, pooled = torch.nn.functional.scaled_dot_product_attention, torch.nn.functional.adaptive_avg_pool2d
    functions = {
        "number - x": (lambda x: 2 - x, x),
        "number / x": (lambda x: 2 / x, x),
        "number ** x": (lambda x: 2**x, x),
        "reshape of a transposed tensor": (lambda x: x.T.reshape(2, 6), x),
        "reshape of a slice": (lambda x: x[:, 1:3].reshape(-1) * 2, x),
        "reshape of an expanded tensor": (lambda x: x.unsqueeze(1).expand(3, 2, 4).reshape(6, 4).sin(), x),
        "as_strided": (lambda x: x.as_strided((2, 3), (4, 1)) * 2, x),
        "mean over an image, channels last": (lambda x: pooled(x.permute(0, 3, 1, 2), 1) * 2, tokens),
        "attention": (lambda x: attention(x, x.sin(), x.cos()), tokens),
        "attention with a mask": (lambda x: attention(x, x.sin(), x.cos(), attn_mask=causal), tokens),
        "causal attention": (lambda x: attention(x, x.sin(), x.cos(), is_causal=True), tokens),
        "traced convolution": (torch.jit.trace(torch.nn.Conv2d(2, 3, 3).double(), image, check_trace=False), image),
        "LSTM": (lambda x: lstm(x)[0], x.float()),
        "GRU": (lambda x: gru(x)[0], x.float()),
    }
    for name, (func, point) in functions.items():
        yield Case(name, 0, "", lambda *inputs, func=func: (func(*inputs),), (point,))


def gradient_of(case: Case) -> Case:
    """Return the gradient of a weighed sum of outputs: other nodes are behind that."""

    def total(*inputs: torch.Tensor) -> torch.Tensor:
        parts = [value.double() for value in case.func(*inputs) if value.is_floating_point()]
        return torch.stack([(part * torch.arange(1, 1 + part.numel()).view_as(part)).sum() for part in parts]).sum()

    def gradient(*inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad():
            by = [x if x.requires_grad else x.detach().requires_grad_() for x in inputs]
            made = torch.autograd.grad(total(*by), by, create_graph=True, allow_unused=True)
        return tuple(torch.zeros_like(x) if part is None else part for x, part in zip(inputs, made))

    return replace(case, operator=case.operator + DIFFERENTIATED, func=gradient)


def verdict(case: Case, way: Callable[[Problem], Made]) -> tuple[frozenset[str], bool] | None:
    """Return the nodes of a case, and whether its blocks are right; ``None`` if nothing can be compared."""
    try:
        seed()
        with torch.no_grad():
            rung, leaves = way(Problem.of(case.func, case.inputs, case.argnums, False))
            k = min(_MOST, sum(leaf.numel for leaf in leaves))
            if not k or not rung.outputs.nodes:
                return None
            seeds = Seeds(ElementDirections(leaves)).batch(slice(0, k))
            if k == 1:  # a single number: the same seed with several weights
                seeds, k = tuple(torch.cat([values, -2 * values, 0 * values]) for values in seeds), 3
            size = max(float(values.abs().max()) for values in seeds)
            together = rung.many(seeds)
            alone = [rung.one(tuple(values[i] for values in seeds)) for i in range(k)]
    except Exception:
        return None
    return rung.outputs.nodes, all(_agree(rows, parts, size) for rows, parts in zip(together, zip(*alone)))


def _agree(rows: torch.Tensor, parts: Sequence[torch.Tensor], size: float) -> bool:
    """Tell whether rows of a batch are those that were computed alone; what is no number must be none in both.

    What is far smaller than the seeds may be nothing but rounding (the derivative of one number, normalised).
    """
    pairs = zip(rows, parts, strict=True)
    return all(
        row.dtype == part.dtype
        and (same_to_rounding(row.nan_to_num(0, 0, 0), part.nan_to_num(0, 0, 0)) or _is_nothing((row, part), size))
        for row, part in pairs
    )


def _is_nothing(values: Sequence[torch.Tensor], size: float) -> bool:
    """Tell whether numbers are far smaller than the seeds."""
    return all(bool((value.abs() < size * torch.finfo(value.dtype).eps ** 0.5).all()) for value in values)


if __name__ == "__main__":
    main()
