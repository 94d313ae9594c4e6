"""Jacobians inside of what torch.compile compiles: torch.func's in a graph, or left out of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import chunkjac as cj

X = torch.linspace(0.1, 1.0, 3, dtype=torch.float64)


def func(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return scale * x.sin() * x.sum()


def total(x: torch.Tensor) -> torch.Tensor:
    return func(x).sum()


MADE = cj.jacrev(func)
PLAN = cj.plan(func, X)
JACOBIAN, HESSIAN = torch.func.jacrev(func), torch.func.hessian(total)

IN_A_GRAPH: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "jacrev": (lambda x: cj.jacrev(func, chunk_size=2)(x), JACOBIAN),
    "made before": (lambda x: MADE(x), JACOBIAN),
    "jacfwd": (lambda x: cj.jacfwd(func, -1)(x, scale=2.0) / 2, JACOBIAN),
    "hessian": (lambda x: cj.hessian(total)(x), HESSIAN),
}
LEFT_OUT: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "jacobian": (lambda x: cj.jacobian(func, x, max_memory="1GiB"), JACOBIAN),
    "jacfd": (lambda x: cj.jacfd(func)(x), JACOBIAN),
    "run": (lambda x: PLAN.run(x), JACOBIAN),
    "gram": (lambda x: cj.gram(func, x), lambda x: JACOBIAN(x) @ JACOBIAN(x).mT),
}


def compiled(call: Callable[..., torch.Tensor], *, fullgraph: bool) -> torch.Tensor:
    torch._dynamo.reset()
    return torch.compile(lambda x: 2 * call(x), backend="eager", fullgraph=fullgraph)(X)


@pytest.mark.parametrize("name", IN_A_GRAPH)
def test_transforms_become_torchs_own_in_a_graph(name: str) -> None:
    call, expected = IN_A_GRAPH[name]
    assert torch.allclose(compiled(call, fullgraph=True), 2 * expected(X))


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_keeps_to_a_budget_is_left_out_of_graphs(name: str) -> None:
    call, expected = LEFT_OUT[name]
    assert torch.allclose(compiled(call, fullgraph=False), 2 * expected(X), atol=1e-7)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"keep to its budget.*use chunkjac\.jacrev"):
        compiled(call, fullgraph=True)
