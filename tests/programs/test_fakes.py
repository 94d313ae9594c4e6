"""Recording on fakes gives what computing gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._programs.graph.fakes import recorded_on_fakes
from chunkjac._programs.graph.graph import Graph, Node
from chunkjac._programs.graph.recorder import NotLinearError, recorded
from tests.zoo import example

NAMES = ("mlp", "cnn", "decoder", "u_net", "transformer_layer", "autoencoder", "parameters", "tree_of_outputs")
Both = list[tuple[Graph | None, Graph]]


@pytest.fixture
def both_ways(monkeypatch: pytest.MonkeyPatch) -> Both:
    """Record everything on fakes, whatever it takes, and compute it as well; return what that gave."""
    found: Both = []

    def both(record: Callable[[Any], Graph], tensors: Any) -> Graph | None:
        found.append((recorded_on_fakes(record, tensors), record(tensors)))
        return found[-1][0]

    monkeypatch.setattr("chunkjac._programs.recording._FAKE_S", 0.0)
    monkeypatch.setattr("chunkjac._programs.graph.fakes.recorded_on_fakes", both)
    return found


def look_of(node: Node) -> Any:
    """Return what a node's result is like: of dimensions of one element, strides say nothing."""
    if node.layout is None:
        return None
    strides = [stride for size, stride in zip(node.layout.shape, node.layout.strides) if size != 1]
    return node.layout.shape, strides, node.layout.dtype, node.layout.device


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", NAMES)
def test_fakes_are_like_what_is_computed(both_ways: Both, name: str, mode: str) -> None:
    case = example(name)
    plan = cj.plan(case.func, *case.args, mode=mode, chunk_size=4)
    plain = plan.run()
    again, report = plan.run(return_report=True)
    assert report.plan.rung == "linear program"
    assert len(both_ways) == 2
    for on_fakes, computed in both_ways:
        assert on_fakes is not None
        assert [node.func for node in on_fakes.nodes] == [node.func for node in computed.nodes]
        assert [*map(look_of, on_fakes.nodes)] == [*map(look_of, computed.nodes)]
    for values, wanted in zip(torch.utils._pytree.tree_leaves(again), torch.utils._pytree.tree_leaves(plain)):
        assert torch.allclose(values, wanted, rtol=1e-9, atol=1e-12)


def test_where_values_are_needed_there_are_no_fakes() -> None:
    mask = torch.tensor([True, False, True, True])

    def on_fakes(func: Callable[[torch.Tensor], torch.Tensor]) -> Graph | None:
        return recorded_on_fakes(lambda given: recorded(lambda: (func(*given),), given, (), {})[0], (mask,))

    assert on_fakes(torch.logical_not) is not None
    with pytest.raises(NotLinearError):
        on_fakes(torch.nonzero)
