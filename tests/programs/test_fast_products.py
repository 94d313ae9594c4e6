"""Products by another library: the same numbers, and only where it is faster."""

from __future__ import annotations

import pytest
import torch

from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.passes import fast_products
from chunkjac._programs.passes.fast_products import with_fast_products
from chunkjac._programs.replay.replay import Replay

aten = torch.ops.aten
needs_onednn = pytest.mark.skipif(fast_products._LINEAR is None, reason="this torch has no oneDNN")


def graph_of(func: object, x: torch.Tensor, dtype: torch.dtype = torch.float32) -> tuple[Graph, torch.Tensor]:
    """Return what a function of a tensor does, and gives."""
    graph, (made,) = recorded(lambda: (func(x),), (x,), (x,), {})  # type: ignore[operator]
    return graph, made


@needs_onednn
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("is_turned", [True, False])
def test_large_products_give_the_same(monkeypatch: pytest.MonkeyPatch, with_bias: bool, is_turned: bool) -> None:
    monkeypatch.setattr(fast_products, "_pays", lambda: True)
    torch.manual_seed(0)
    x, bias = torch.randn(130, 140), torch.randn(150)
    matrix = torch.randn(150, 140).t() if is_turned else torch.randn(140, 150)
    graph, made = graph_of(lambda x: torch.addmm(bias, x, matrix) if with_bias else x @ matrix, x)
    fast = with_fast_products(graph)
    assert not any(node.func in (aten.mm.default, aten.addmm.default) for node in fast.nodes)
    (found,) = Replay(fast).bind({**fast.constants, fast.given[0]: x}, x.device).run()
    torch.testing.assert_close(found, made)


@pytest.mark.parametrize(
    ("shape", "dtype"), [((4, 4), torch.float32), ((200, 200), torch.float64)], ids=["small", "float64"]
)
def test_others_stay(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], dtype: torch.dtype) -> None:
    monkeypatch.setattr(fast_products, "_pays", lambda: True)
    x = torch.randn(shape, dtype=dtype)
    graph, _ = graph_of(lambda y: y @ torch.eye(shape[1], dtype=dtype), x)
    assert with_fast_products(graph) is graph


def test_nothing_is_exchanged_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_products, "_pays", lambda: False)
    x, matrix = torch.randn(200, 200), torch.randn(200, 200)
    graph, _ = graph_of(lambda x: x @ matrix, x)
    assert with_fast_products(graph) is graph


def test_no_room_to_find_out_means_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(_: int) -> bool:
        raise MemoryError

    monkeypatch.setattr(fast_products, "_is_faster", raises)
    assert not fast_products._pays()
