"""Inputs that overlap themselves or each other, and views that are negative or strided, in every mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import chunkjac as cj

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")


def inputs(name: str) -> tuple[torch.Tensor, ...]:
    b = torch.randn(6, dtype=D)
    made: dict[str, tuple[torch.Tensor, ...]] = {
        "expanded": (b[:1].expand(4),),
        "a number expanded": (b[0].expand(3, 2),),
        "overlapping rows": (b.as_strided((4, 2), (1, 1)),),
        "overlapping columns": (b.as_strided((2, 4), (1, 1)),),
        "transposed": (torch.randn(3, 4, dtype=D).t(),),
        "every third": (torch.randn(12, dtype=D)[::3],),
        "a diagonal": (torch.randn(4, 4, dtype=D).diagonal(),),
        "negative": (torch._neg_view(b),),
        "conjugate, imaginary part": (torch.randn(4, dtype=torch.complex128).conj().imag,),
        "complex as real": (torch.view_as_real(torch.randn(3, dtype=torch.complex128)),),
        "neighbours": (b[:4], b[1:5]),
        "twice the same": (b, b),
        "a part of the other": (b, b.view(2, 3)),
    }
    return made[name]


NAMES = (
    *("expanded", "a number expanded", "overlapping rows", "overlapping columns", "transposed", "every third"),
    *("a diagonal", "negative", "conjugate, imaginary part", "complex as real", "neighbours", "twice the same"),
    "a part of the other",
)


def func(*xs: torch.Tensor) -> torch.Tensor:
    first, last = xs[0], xs[-1]
    return first.sin().sum() * last.reshape(-1) + last.cumsum(0).reshape(-1)


@pytest.mark.parametrize("options", [{}, {"max_memory": "8MiB"}, {"create_graph": True}, {"chunk_size": 2}, None])
@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference", "auto"])
@pytest.mark.parametrize("name", NAMES)
def test_views_as_inputs(name: str, mode: str, options: dict[str, Any] | None) -> None:
    xs = inputs(name)
    argnums = tuple(range(len(xs)))
    apart = tuple(x.resolve_neg().clone(memory_format=torch.contiguous_format) for x in xs)
    wanted = torch.autograd.functional.jacobian(func, apart)
    if options is None:
        plan = cj.plan(func, *xs, argnums=argnums, mode=mode)
        found = [plan.run(*xs) for _ in range(3)][-1]
    elif mode == "finite-difference" and "create_graph" in options:
        return
    else:
        found = cj.jacobian(func, *xs, argnums=argnums, mode=mode, **options)
    assert all(torch.allclose(mine, yours, atol=1e-6) for mine, yours in zip(found, wanted))
    assert all(torch.equal(x, was) for x, was in zip(xs, apart))
