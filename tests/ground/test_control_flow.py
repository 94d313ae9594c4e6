"""torch.cond, while_loop, scan: in every mode, under limits, and everything left as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._higher_order_ops import utils
from torch._higher_order_ops.associative_scan import associative_scan
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes

pytestmark = [
    pytest.mark.filterwarnings("ignore::chunkjac.RungWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.skipif(not hasattr(utils, "_hop_compile_and_call"), reason="another release of torch"),
]

D = torch.float64
MODES = ("auto", "reverse", "forward", "finite-difference")
X = torch.linspace(0.1, 1.0, 4, dtype=D)


def branch(x: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x**3, (x,))


def branch_of_two(x: torch.Tensor) -> torch.Tensor:
    first, second = torch.cond(x[0] > 0, lambda x: (x * 2, x.exp()), lambda x: (x * 1, x * 1), (x,))
    return first * second


def three_sines(x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = while_loop(lambda i, v: i < 3, lambda i, v: (i + 1, v.sin()), (torch.tensor(0), x))[1]
    return made


def products(x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = scan(lambda c, y: (c * y + c, (c * y).clone()), torch.ones((), dtype=x.dtype), x)[1]
    return made


def sums(x: torch.Tensor) -> torch.Tensor:
    made: torch.Tensor = associative_scan(lambda a, b: a + b, x.exp(), 0, combine_mode="generic")
    return made


def nested(x: torch.Tensor) -> torch.Tensor:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x[0] > 5, lambda x: x.sin(), lambda x: x.exp(), (x,))

    return torch.cond(x.sum() > 0, inner, lambda x: x * 1, (x,))


BY_HAND: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "cond": (branch, lambda x: x.sin() if x.sum() > 0 else x**3),
    "cond of two": (branch_of_two, lambda x: 2 * x * x.exp() if x[0] > 0 else x * x),
    "while_loop": (three_sines, lambda x: x.sin().sin().sin()),
    "scan": (
        products,
        lambda x: x * torch.cat([torch.ones(1, dtype=x.dtype), (x + 1).cumprod(0)[:-1]]),
    ),
    "associative_scan": (sums, lambda x: x.exp().cumsum(0)),
    "nested": (nested, lambda x: x.exp() if x.sum() > 0 else x),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BY_HAND)
def test_every_mode_differentiates_control_flow(name: str, mode: str) -> None:
    func, same = BY_HAND[name]
    before = func(X)
    compile_and_call = utils._hop_compile_and_call
    found = cj.jacobian(func, X, mode=mode)
    torch.testing.assert_close(found, torch.func.jacrev(same)(X), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(func(X), before)  # also without us
    assert utils._hop_compile_and_call is compile_and_call


@pytest.mark.parametrize("options", [{"max_memory": 10**7}, {"return_report": True}, {"chunk_size": 1}])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["cond", "while_loop", "scan"])
def test_control_flow_is_counted(name: str, mode: str, options: dict[str, Any]) -> None:
    func, same = BY_HAND[name]
    found = cj.jacobian(func, X, mode=mode, **options)
    found = found[0] if isinstance(found, tuple) else found
    torch.testing.assert_close(found, torch.func.jacrev(same)(X), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(func(X), same(X))


def test_a_limit_holds_within_a_branch() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: (x[:, None] * torch.ones(1000, dtype=D)).sum(1), torch.sin, (x,))

    with LiveBytes(X.device) as live, pytest.raises(cj.BudgetError):
        cj.jacobian(func, X, max_memory=20_000)
    assert live.peak_bytes <= 20_000


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_takes_the_branch_of_each_run(mode: str) -> None:
    plan = cj.plan(branch, X, mode=mode)
    for x in (X, -X, X, 2 * X, -X):
        expected = torch.diag(x.cos() if x.sum() > 0 else 3 * x**2)
        torch.testing.assert_close(plan.run(x), expected, rtol=1e-7, atol=1e-8)


def test_an_error_of_the_functions_own_is_told() -> None:
    with pytest.raises(ValueError, match="mine"):
        cj.jacobian(lambda x: torch.cond(x.sum() > 0, _fails, _fails, (x,)), X)
    torch.testing.assert_close(branch(X), X.sin())


def _fails(x: torch.Tensor) -> torch.Tensor:
    raise ValueError("mine")
