"""The paper's class in chunks is as accurate as the paper's, and holds a Jacobian and a chunk, not five Jacobians.

The accuracy, the figures and the timing table of "JacrevFinite: Finite Difference approach to
replacing PyTorch Autograd" (B. Hendrata, 2024), measured again beside its own figures, and time and
memory of a Jacobian of 3000 x 3000. The rival, ``all at once``, is the paper's way as its section 4
describes it: n + 1 copies of every argument, one evaluation, one subtraction.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

import chunkjac as cj
from benchmarks.paper_figures import against_delta, draw
from benchmarks.paper_way import all_at_once, errors_of, network
from benchmarks.record import medians_s
from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes
from chunkjac.compat import JacrevFinite

__all__ = ["draw", "run"]

D = torch.float64

# Mean and max error of the paper's section 5.3, in its order.
PAPERS_ERRORS = {
    "product, 100 x 100": (4.309479631012399e-16, 9.29114563064104e-11),
    "product, 64 x 1 x 64: plus against minus along dim 1": (1.3039380170592267e-15, 8.881784197001252e-11),
    "product, 64 x 1 x 64": (1.0865026644743119e-15, 9.900658071160251e-11),
    "network 5-128-5, 20 x 5": (9.729684497912846e-14, 6.905432822779112e-12),
    "network 2-256-2, 8 x 1 x 16 x 2 along dim 1": (1.4154864256284452e-14, 8.50340284297424e-12),
}

# Seconds of a call in the paper's section 5.2, which gives those of 100.
PAPERS_TIMES_S = {
    "two": {"torch.func.jacrev": 1.974651e-2, "torch.autograd.grad": 9.607e-5, "JacrevFinite": 3.4684e-4},
    "f": {"torch.func.jacrev": 2.1442e-4, "torch.autograd.grad": 4.371e-5, "JacrevFinite": 1.3784e-4},
    "g with wrapper": {"torch.func.jacrev": 2.3883e-4, "JacrevFinite": 1.5642e-4},
}

# The rectified networks of the accuracy cases are drawn this often.
N_NETWORKS = 9

# More copies than this are not made at once here: the first case would take 3.7 GiB.
_MOST_AT_ONCE = 5000


def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x * y


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    torch.manual_seed(0)
    return [*_accuracy(quick), *against_delta(quick=quick), *_times(quick), *_memory(quick)]


def _accuracy(quick: bool) -> list[dict[str, Any]]:
    """Return the errors of the paper's five cases."""
    first = torch.randn(2, *((30, 30) if quick else (100, 100)), dtype=D)
    second = torch.randn(2, *((16, 1, 16) if quick else (64, 1, 64)), dtype=D)
    along_dim = JacrevFinite(function=product, num_args=0, dim=1, method="minus")
    errors = {
        "product, 100 x 100": _sides(product, first, first[1].flatten()),
        "product, 64 x 1 x 64: plus against minus along dim 1": {
            "JacrevFinite": errors_of(JacrevFinite(function=product, num_args=0)(*second), along_dim(*second))
        },
        "product, 64 x 1 x 64": _sides(product, second, second[1].flatten()),
    }
    n_crossing = dict.fromkeys(errors, 0)
    for case, n, n_hidden, shape, dim in (
        ("network 5-128-5, 20 x 5", 5, 128, (20, 5), None),
        ("network 2-256-2, 8 x 1 x 16 x 2 along dim 1", 2, 256, (8, 1, 16, 2), 1),
    ):
        errors[case], n_crossing[case] = _of_networks(n, n_hidden, shape, dim)
    print(f"{'mean and max error':<54} {'paper':>18}   here")
    rows = []
    for case, (mean, most) in PAPERS_ERRORS.items():
        found = errors[case]
        sides = ", ".join(f"{side} {a:.1e} {b:.1e}" for side, (a, b) in found.items())
        crossing = f"; {n_crossing[case]} of {N_NETWORKS} draws cross a kink" if n_crossing[case] else ""
        print(f"{case:<54} {mean:>9.1e} {most:.1e}   {sides}{crossing}")
        row = {"part": "accuracy", "case": case, "n_crossing": n_crossing[case]}
        rows += [
            {**row, "side": side, "mean_error": a, "max_error": b}
            for side, (a, b) in {"paper": (mean, most), **found}.items()
        ]
    return rows


def _of_networks(
    n: int, n_hidden: int, shape: tuple[int, ...], dim: int | None
) -> tuple[dict[str, tuple[float, float]], int]:
    """Return the median errors of networks drawn at random, and how many of them cross a kink.

    A rectified layer has a kink at 0. Where the step crosses one, differences of any kind are off by
    more than the paper's figures, which are of one draw.
    """
    draws = []
    for _ in range(N_NETWORKS):
        net, x = network(n, n_hidden, 4), torch.randn(shape, dtype=D)
        draws.append(_sides(net, [x], torch.func.jacrev(net)(x).detach(), dim))
    medians = {side: [statistics.median(draw[side][i] for draw in draws) for i in (0, 1)] for side in draws[0]}
    n_crossing = sum(draw["all at once"][1] > 1e-9 for draw in draws)
    return {side: (mean, most) for side, (mean, most) in medians.items()}, n_crossing


def _sides(
    function: Callable[..., torch.Tensor], args: Sequence[torch.Tensor], expected: torch.Tensor, dim: int | None = None
) -> dict[str, tuple[float, float]]:
    """Return the errors of the paper's class here, of the paper's way, and of the step that is found."""
    found = {"JacrevFinite": errors_of(JacrevFinite(function=function, num_args=0, dim=dim)(*args), expected)}
    if args[0].numel() <= _MOST_AT_ONCE:
        found["all at once"] = errors_of(all_at_once(function, args).detach(), expected)
    return {**found, "jacfd": errors_of(cj.jacfd(function)(*args), expected)}


@dataclass(frozen=True, slots=True)
class Timed:
    """Hold a function that the paper times, and its arguments.

    Attributes:
        function: As the user wrote it.
        args: Tensors, or lists of numbers.
        number: The argument to differentiate with respect to.
        wrapper: What comes before the function.
        delta: The step that the paper takes.
    """

    function: Callable[..., torch.Tensor]
    args: tuple[Any, ...]
    number: int = 0
    wrapper: Callable[..., Any] | None = None
    delta: float = 1e-5

    def whole(self, *args: torch.Tensor) -> torch.Tensor:
        """Call the function through its wrapper."""
        return self.function(*(args if self.wrapper is None else self.wrapper(*args)))

    def by_grad(self) -> torch.Tensor:
        """Return the gradient of the sum of all outputs, which is what the paper times."""
        inputs = _tensors(self.args)
        inputs[self.number].requires_grad_()
        return torch.autograd.grad(self.whole(*inputs).sum(), inputs[self.number], create_graph=True)[0]

    def by_jacrev(self) -> torch.Tensor:
        return torch.func.jacrev(self.whole, argnums=self.number)(*_tensors(self.args))

    def at_once(self) -> torch.Tensor:
        return all_at_once(self.whole, _tensors(self.args), self.number, self.delta)

    def by_ours(self) -> torch.Tensor:
        ours = JacrevFinite(function=self.function, wrapper=self.wrapper, num_args=self.number, delta=self.delta)
        return ours(*self.args)


def timed() -> dict[str, Timed]:
    """Return the paper's three functions."""
    a, b, c = (torch.tensor(numbers, dtype=D, requires_grad=True) for numbers in ((5, 2), (1, 1), (2, 3)))
    lists = [1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [-1.0, -2.0, -3.0, -4.0], [-5.0, -6.0, -7.0, -8.0]
    return {
        "two": Timed(lambda x: 2 * x, (a,)),
        "f": Timed(lambda x, y: x + y, (b, c), number=1, delta=1e-10),
        "g with wrapper": Timed(product, lists, number=3, wrapper=lambda a, b, c, d: [a + b, c + d]),
    }


def _times(quick: bool) -> list[dict[str, Any]]:
    """Return the times of the paper's three functions, per call."""
    rows = []
    for name, case in timed().items():
        options = {"argnums": case.number, "mode": "finite-difference", "scheme": "forward", "step": case.delta}
        plan = cj.plan(case.whole, *_tensors(case.args), **options)
        sides = {
            "torch.autograd.grad": case.by_grad,
            "torch.func.jacrev": case.by_jacrev,
            "all at once": case.at_once,
            "JacrevFinite": case.by_ours,
            "plan.run": lambda plan=plan, case=case: plan.run(*_tensors(case.args)),
        }
        times_s = medians_s(sides, 20 if quick else 500)
        print(f"{name:<16}" + ", ".join(f"{side} {seconds * 1e6:.0f} us" for side, seconds in times_s.items()))
        for side, seconds in times_s.items():
            paper_s = PAPERS_TIMES_S[name].get(side)
            rows.append({"part": "time", "function": name, "side": side, "call_s": seconds, "paper_s": paper_s})
    return rows


def _tensors(args: Sequence[Any]) -> list[torch.Tensor]:
    """Convert lists; that is a part of each call."""
    return [x if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=D) for x in args]


def _memory(quick: bool) -> list[dict[str, Any]]:
    """Return time and peak of a Jacobian of n x n, at once, in chunks, and under a budget."""
    n = 500 if quick else 3000
    x, y = torch.randn(2, n, dtype=D)
    layer = nn.Sequential(nn.Linear(n, n), nn.Tanh()).double()
    budget = 8 * n * n + 8 * 2**20
    rows = []
    for name, function, args in (("product", product, (x, y)), ("linear layer, tanh", layer, (x,))):
        ours = JacrevFinite(function=function, num_args=0)

        def in_budget(ours: JacrevFinite = ours, args: Any = args) -> torch.Tensor:
            with cj.config_context(max_memory=budget):
                return ours(*args)

        sides = {
            "all at once": partial(all_at_once, function, args),
            "JacrevFinite": partial(ours, *args),
            "JacrevFinite, J + 8 MiB": in_budget,
        }
        times_s = medians_s(sides, 2 if quick else 7)
        for side, compute in sides.items():
            with LiveBytes(x.device) as tracker:
                compute()
            row = {"part": "memory", "function": name, "n": n, "side": side, "result_bytes": 8 * n * n}
            rows.append({**row, "peak_bytes": tracker.peak_bytes, "call_s": times_s[side]})
            peak = f"{format_bytes(tracker.peak_bytes)} ({tracker.peak_bytes / (8 * n * n):.2f} J)"
            print(f"{name:<20} {side:<24} {peak:>18}, {times_s[side]:.3f} s")
    return rows
