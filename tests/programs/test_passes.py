"""Passes of the linear program by their theorems: merged, one-hot products, layouts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chunkjac._chunker.directions import ElementDirections
from chunkjac._chunker.seeds import Seeds
from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._problem.leaves import Leaf
from chunkjac._problem.problem import Problem
from chunkjac._programs.batch import batched
from chunkjac._programs.graph.graph import Graph, live_nodes, run_all
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.graph.step_recorder import recorded_step
from chunkjac._programs.passes.gathers import Gather, Patch
from chunkjac._programs.passes.memory_formats import LAYOUT_RULES
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.passes.one_hot_seeds import without_seeds
from chunkjac._programs.replay.replay import Replay
from chunkjac._programs.tracing import trace_of

aten = torch.ops.aten


def record(func, *given_: torch.Tensor, rules=None) -> tuple[Graph, tuple[torch.Tensor, ...]]:
    """Record a function of tensors that are all seeds."""
    return recorded(lambda: func(*given_), given_, given_, rules or {})


def evaluated(graph: Graph, *given_: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Run a graph as it is."""
    values = run_all(graph.nodes, {**graph.constants, **dict(zip(graph.given, given_))}, set(graph.outputs))
    return tuple(values[node] for node in graph.outputs)


def test_what_is_computed_twice_is_computed_once() -> None:
    x = torch.randn(4)
    graph, made = record(lambda x: (x.sin() + x.sin() * x.sin().detach(),), x)
    simple = merged(graph)
    assert [node.func for node in simple.nodes] == [aten.sin.default, aten.mul.Tensor, aten.add.Tensor]
    assert torch.equal(evaluated(simple, x)[0], made[0])


def test_numbers_of_other_types_are_not_the_same() -> None:
    x = torch.randn(4)
    graph, made = record(lambda x: (x.sum(0, keepdim=True) + x.sum(0, keepdim=False), x.clamp(0), x.clamp(0.0)), x)
    for found, expected in zip(evaluated(merged(graph), x), made):
        assert torch.equal(found, expected)
    graph, _ = record(lambda x: (torch.full((4,), 1), torch.full((4,), 1.0), torch.full((4,), True)), x)
    assert [found.dtype for found in evaluated(merged(graph), x)] == [torch.int64, torch.float32, torch.bool]


def test_memory_that_is_written_to_is_never_merged() -> None:
    def func(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a, b = x.new_zeros(4), x.new_zeros(4)
        a[:2] = x[:2]
        b[2:] = x[2:]
        return a * 1, b * 1

    x = torch.randn(4)
    graph, made = record(func, x)
    for found, expected in zip(evaluated(merged(graph), x), made):
        assert torch.equal(found, expected)


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(0, 12))
def test_a_product_with_one_hot_seeds_is_rows_of_the_matrix(n: int, m: int, width: int, k: int, start: int) -> None:
    """One leaf of ``(n, m)`` between two others, so that chunks begin before it and end behind it."""
    leaves = [Leaf(torch.Size(shape), torch.float64, torch.device("cpu")) for shape in ((2,), (n, m), (3,))]
    one_hot, matrix = Seeds(ElementDirections(leaves)), torch.randn(m, width, dtype=torch.float64)
    seeds = one_hot.batch(slice(0, k))
    graph, _ = recorded(lambda: (seeds[1].view(k * n, m) @ matrix,), seeds, seeds, {})
    graph = without_seeds(graph, graph.given)
    graph = replace(graph, nodes=live_nodes(graph.nodes, graph.outputs))
    assert [type(node.func) for node in graph.nodes] == [Gather]
    step = Replay(graph).bind(graph.constants, torch.device("cpu")).run
    start = min(start, 5 + n * m - 1)
    again = one_hot.batch(slice(start, start + k))
    assert torch.equal(step(start)[0], again[1].reshape(k * n, m) @ matrix)


@settings(max_examples=60)
@given(
    options=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2)), min_size=2, max_size=2),
    sides=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    k=st.integers(1, 9),
    start=st.integers(0, 60),
)
def test_a_transposed_convolution_of_one_hot_seeds_is_its_filters(
    options: list[tuple[int, int, int]], sides: tuple[int, int], k: int, start: int
) -> None:
    """Two leaves before and behind the images, so that chunks begin before them and end behind."""
    kernel, stride, padding = (list(part) for part in zip(*options))
    assume(all((n - 1) * s - 2 * p + d > 0 for n, s, p, d in zip(sides, stride, padding, kernel)))
    shapes = (2,), (3, *sides), (4,)
    leaves = [Leaf(torch.Size(shape), torch.float64, torch.device("cpu")) for shape in shapes]
    one_hot, weight = Seeds(ElementDirections(leaves)), torch.randn(3, 2, *kernel, dtype=torch.float64)
    args = weight, None, stride, padding, [1, 1], True, [0, 0], 1
    seeds = one_hot.batch(slice(0, k))
    graph, _ = recorded(lambda: (aten.convolution(seeds[1], *args),), seeds, seeds, {})
    graph = without_seeds(graph, graph.given)
    assert [type(node.func) for node in graph.nodes] == [Patch]
    step = Replay(graph).bind(graph.constants, torch.device("cpu")).run
    start = min(start, sum(leaf.numel for leaf in leaves) - 1)
    expected = aten.convolution(one_hot.batch(slice(start, start + k))[1], *args)
    assert torch.equal(step(start)[0], expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_with_channels_last_gives_the_same(groups: int, transposed: bool) -> None:
    x, weight = torch.randn(3, 4, 9, 8), torch.randn(4, 4 // groups, 3, 3)
    args = (None, [2, 1], [1, 0], [1, 1], transposed, [1, 0] if transposed else [0, 0], groups)
    graph, made = record(lambda x: (aten.convolution(x, weight, *args),), x, rules=LAYOUT_RULES)
    torch.testing.assert_close(made[0], aten.convolution(x, weight, *args))
    assert made[0].is_contiguous(memory_format=torch.channels_last)
    assert aten.clone.default in [node.func for node in graph.nodes]


def test_views_and_factors_follow_the_layout() -> None:
    x, weight, factor = torch.randn(2, 3, 6, 5), torch.randn(4, 3, 1, 1), torch.randn(4, 6, 5)

    def func(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return ((aten.convolution(x, weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1) * factor).view(2, -1),)

    graph, made = record(func, x, rules=LAYOUT_RULES)
    expected = torch.nn.functional.conv2d(x, weight) * factor
    torch.testing.assert_close(made[0], expected.reshape(2, -1))
    (product,) = (node for node in graph.nodes if node.func is aten.mul.Tensor)
    data, in_order = product.operands
    assert data.layout is not None
    assert in_order.layout is not None
    assert [*data.layout.strides[1:]].index(1) == [*in_order.layout.strides].index(1)


@pytest.mark.parametrize("by_rows", [True, False])
def test_what_is_zero_but_for_a_part_is_computed_for_the_part(by_rows: bool) -> None:
    """Only the last of seven steps is asked for, so nothing behind the sum over steps is multiplied for all."""
    torch.manual_seed(0)
    first, second = torch.randn(4, 5).double(), torch.randn(5, 3).double()

    def func(x: torch.Tensor) -> torch.Tensor:
        mixed = (x @ x.T).softmax(-1) @ x @ first
        return torch.nn.functional.layer_norm(torch.tanh(mixed) @ second, (3,))[-1:].unsqueeze(0)

    problem = Problem.of(func, (torch.randn(7, 4).double(),), 0, False)
    leaves = problem.evaluate()[1].leaves if by_rows else problem.leaves
    mode = Reverse(problem) if by_rows else Forward(problem)
    seed = tuple(torch.ones(leaf.shape, dtype=leaf.dtype) for leaf in leaves)
    direction = recorded_step(lambda: mode.apply(seed), seed)
    recorded_ = trace_of(direction.graph, seed, direction.script)
    seeds = Seeds(ElementDirections(leaves)).batch(slice(0, 3))
    made = batched(recorded_, direction.values, seeds)
    known = {**made.constants, **dict(zip(made.given, (*direction.values, *seeds)))}
    blocks = [run_all(made.nodes, known, set(made.outputs))[node] for node in made.outputs]
    expected = (torch.func.jacrev if by_rows else torch.func.jacfwd)(func)(problem.inputs[0])
    matrix = expected.reshape(3, 28) if by_rows else expected.reshape(3, 28).T
    torch.testing.assert_close(blocks[0].reshape(3, -1), matrix[:3])
    sizes = {node.layout.shape for node in made.nodes if node.func is aten.mm.default}
    assert (torch.Size([3, 5]) in sizes) == by_rows  # one row for each seed, not seven
