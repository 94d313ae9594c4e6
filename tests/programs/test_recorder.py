"""What is recorded does again what was done; what cannot be replayed is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chunkjac._programs.graph.graph import Graph, Node, run_all
from chunkjac._programs.graph.recorder import NotLinearError, recorded
from chunkjac._programs.graph.step_recorder import followed_step, recorded_step
from chunkjac._programs.passes.pointwise_chains import replay
from chunkjac._programs.replay.arena import Life, lay_out
from chunkjac._programs.replay.replay import Replay

aten = torch.ops.aten
D = torch.float64
_HELD = torch.arange(1.0, 7.0, dtype=D)


def _in_place(s: torch.Tensor) -> torch.Tensor:
    return (s * 2).add_(s).neg_()


def _on_a_view(s: torch.Tensor) -> torch.Tensor:
    y = s * 3
    y[1:4].mul_(_HELD[:3])
    y[0] = s[5]
    return y


def _shape_in_place(s: torch.Tensor) -> torch.Tensor:
    y = s * 1
    return y.unsqueeze_(0).t_() * 2


def _old_name(s: torch.Tensor) -> torch.Tensor:
    y = s * 1
    view = y.view(2, 3)
    y.mul_(2)
    return view.sum(0)


def _power(s: torch.Tensor) -> torch.Tensor:
    return s * (_HELD * 1).pow_(2) * torch.lerp(_HELD, _HELD + 1, torch.tensor(0.5, dtype=D))


def _chain(s: torch.Tensor) -> torch.Tensor:
    base = s * _HELD
    return (base * 2 - base / 4 + base * _HELD).view(2, 3).T.neg()


def _sum_of_two(s: torch.Tensor) -> torch.Tensor:
    return s.flip(0) * _HELD - s * 3 + torch.sub(s, s.flip(0) * _HELD, alpha=2)


def _broadcast(s: torch.Tensor) -> torch.Tensor:
    return (s.view(3, 2) * _HELD[:2]).unsqueeze(0) * torch.ones(4, 1, 1, dtype=D)


def _promoted(s: torch.Tensor) -> torch.Tensor:
    return (s.float() * _HELD).sum() + s * _HELD.float()


def _dying(s: torch.Tensor) -> tuple[torch.Tensor, ...]:
    a = s.flip(0)
    b = a * 2
    c = b + a
    return c * b, c, a.view(2, 3).t(), torch.cat([c, s]), s


def _strided(s: torch.Tensor) -> torch.Tensor:
    return (s * 2)[1:].as_strided((2, 2), (1, 1), 2)


def _part_of_a_broadcast(s: torch.Tensor) -> torch.Tensor:
    return (s * torch.arange(18, dtype=D).view(3, 6))[2] * 2


_FUNCTIONS = [
    *(_in_place, _on_a_view, _shape_in_place, _old_name, _power, _strided, _part_of_a_broadcast),
    *(_chain, _sum_of_two, _broadcast, _promoted, _dying),
]


def _record(func: Callable[..., Any]) -> Graph:
    seed = torch.ones(6, dtype=D)

    def run() -> tuple[torch.Tensor, ...]:
        made = func(seed)
        return made if isinstance(made, tuple) else (made,)

    return recorded(run, (seed,), (seed,), {})[0]


def _known(graph: Graph, seed: torch.Tensor) -> dict[Node, Any]:
    env = {**graph.constants, graph.given[0]: seed}
    before = tuple(node for node in graph.nodes if not node.varies)
    made = run_all(before, env, set(before))
    return {**env, **made}


def _wanted(func: Callable[..., Any], seed: torch.Tensor) -> tuple[torch.Tensor, ...]:
    made = func(seed)
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("func", _FUNCTIONS)
def test_what_was_recorded_runs_again_for_other_seeds(func: Callable[..., Any]) -> None:
    graph = _record(func)
    seed = torch.linspace(-1, 2, 6, dtype=D)
    for run in (graph, graph.live()):
        found = run_all(run.nodes, {**run.constants, run.given[0]: seed}, set(run.outputs))
        for output, wanted in zip(run.outputs, _wanted(func, seed)):
            torch.testing.assert_close(seed if output is run.given[0] else found[output], wanted)


@pytest.mark.parametrize("func", _FUNCTIONS)
def test_collapsing_pointwise_regions_changes_nothing(func: Callable[..., Any]) -> None:
    graph = _record(func)
    seed = torch.linspace(-1, 2, 6, dtype=D)
    found = replay(graph, _known(graph, seed), graph.outputs)
    for this, wanted in zip(found, _wanted(func, seed)):
        torch.testing.assert_close(this, wanted)


@pytest.mark.parametrize("func", _FUNCTIONS)
def test_straight_code_clobbers_neither_outputs_nor_seeds(func: Callable[..., Any]) -> None:
    graph = _record(func)
    seed = torch.zeros(6, dtype=D)
    known = _known(graph, seed)
    step = Replay(replace(graph, nodes=tuple(node for node in graph.nodes if node.varies))).bind(known, seed.device).run
    for start in (-1.0, 3.0, 0.5):
        seed.copy_(torch.linspace(start, 2, 6, dtype=D))
        before = seed.clone()
        for this, wanted in zip(step(0), _wanted(func, before)):
            torch.testing.assert_close(this, wanted)
        assert torch.equal(seed, before)


def test_a_chain_costs_one_product() -> None:
    graph = _record(lambda s: ((s * _HELD) * 2).neg() / 3)
    counted: list[Any] = []

    class Count(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counted.extend(func for arg in args if arg is seed)
            return func(*args, **(kwargs or {}))

    seed = torch.ones(6, dtype=D)
    with Count():
        replay(graph, _known(graph, seed), graph.outputs)
    assert counted == [aten.mul.Tensor]


def test_changes_in_place_of_captured_tensors_are_seen() -> None:
    held = torch.ones(6, dtype=D)
    graph = _record(lambda s: s * held)
    held.mul_(5)
    seed = torch.ones(6, dtype=D)
    assert torch.equal(replay(graph, _known(graph, seed), graph.outputs)[0], torch.full_like(seed, 5))


def _step_of(func: Callable[..., Any], seed: torch.Tensor) -> Graph:
    """Record what depends on the seed only."""
    return recorded_step(lambda: (func(seed),), (seed,)).graph


def test_a_step_has_what_depends_on_the_seed_and_the_values_of_now() -> None:
    held, seed = torch.full((6,), 2.0, dtype=D), torch.ones(6, dtype=D)
    graph = _step_of(lambda s: s * held.exp() * (held.sum().item() if held.tolist()[0] > 1 else 0.0), seed)
    assert [node.func for node in graph.nodes] == [aten.mul.Tensor, aten.mul.Tensor]
    assert [*map(torch.Tensor.tolist, graph.constants.values())] == [held.exp().tolist()]


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (lambda s, held: s * held + held.mul_(2), "writes to what a derivative uses"),
        (lambda s, held: torch.zeros(6, dtype=D)[1:].copy_(s[1:]) + held, "tensor from outside"),
        (lambda s, held: s * torch.rand(6, dtype=D), "random numbers"),
        (lambda s, held: s * s.sum().item(), "reads values"),
    ],
)
def test_a_step_is_refused_that_values_of_now_do_not_tell(func: Callable[..., Any], why: str) -> None:
    with pytest.raises(NotLinearError, match=why):
        _step_of(lambda s: func(s, torch.ones(6, dtype=D)), torch.ones(6, dtype=D))


def test_a_constant_keeps_the_shape_that_it_had() -> None:
    def func(s: torch.Tensor) -> torch.Tensor:
        held = torch.full((1, 6), 2.0, dtype=D)
        made = s * held
        held.squeeze_(0)
        return made + s * held

    seed = torch.ones(6, dtype=D)
    graph = _step_of(func, seed)
    found = run_all(graph.nodes, {**graph.constants, graph.given[0]: seed}, set(graph.outputs))
    assert torch.equal(found[graph.outputs[0]], torch.full((1, 6), 4.0, dtype=D))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (lambda s, c: s * c, lambda s, c: s * (c + 1), True),
        (lambda s, c: s * c, lambda s, c: s + c, False),
        (lambda s, c: s * 1.0, lambda s, c: s * 1, False),
        (lambda s, c: s * 0.0, lambda s, c: s * -0.0, False),
        (lambda s, c: s * torch.nan, lambda s, c: s * torch.nan, True),
        (lambda s, c: s * c, lambda s, c: s * c.double(), False),
        (lambda s, c: s * c, lambda s, c: s.double() * c, False),
        (lambda s, c: s.view(2, 3).sum(0), lambda s, c: s.view(2, 3).sum(1), False),
    ],
)
def test_recordings_of_the_same_operations_are_told(
    one: Callable[..., Any], other: Callable[..., Any], same: bool
) -> None:
    seed, held = torch.ones(6), torch.full((6,), 2.0)
    script = recorded_step(lambda: (one(seed, held),), (seed,)).script
    assert followed_step(lambda: (one(seed, held),), (seed,), script) is not None
    assert (followed_step(lambda: (other(seed, held),), (seed,), script) is not None) == same


@pytest.mark.parametrize(
    ("func", "why"),
    [
        (lambda s: s * s.sum().item(), "reads values"),
        (lambda s: s[s > 0], "reads values"),
        (lambda s: s * torch.rand(6, dtype=D), "random numbers"),
        (lambda s: torch.zeros(6, dtype=D).copy_(s) + _HELD.add_(0), "tensor from outside"),
        (lambda s: s.mul_(1), "tensor from outside"),
        (lambda s: s.to_sparse(), "."),
    ],
)
def test_what_cannot_be_replayed_is_refused(func: Callable[..., Any], why: str) -> None:
    with pytest.raises(NotLinearError, match=why):
        _record(func)


_LIVES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20), st.integers(0, 9)), max_size=25)


@given(_LIVES)
def test_what_is_alive_at_once_does_not_overlap(drawn: list[tuple[int, int, int]]) -> None:
    lives = {i: Life(size, first, first + more) for i, (size, first, more) in enumerate(drawn)}
    arena = lay_out(lives)
    for i, one in lives.items():
        assert 0 <= arena.offsets[i] <= arena.offsets[i] + one.n_bytes <= arena.n_bytes
        for j, other in lives.items():
            if i < j and one.first <= other.last and other.first <= one.last and one.n_bytes and other.n_bytes:
                a, b = arena.offsets[i], arena.offsets[j]
                assert a + one.n_bytes <= b or b + other.n_bytes <= a


def test_what_is_dead_makes_room() -> None:
    assert lay_out({i: Life(512, i, i) for i in range(9)}).n_bytes == 512


@pytest.mark.parametrize("func", _FUNCTIONS)
def test_outputs_are_written_where_a_run_is_told_to(func: Callable[..., Any]) -> None:
    graph = _record(func)
    seed = torch.linspace(-1, 2, 6, dtype=D)
    known = _known(graph, seed)
    replay_ = Replay(replace(graph, nodes=tuple(node for node in graph.nodes if node.varies)))
    bound = replay_.bind(known, seed.device)
    roots = [root for root in replay_.open.values() if root.layout is not None]
    places = [torch.full(root.layout.shape, 7.0, dtype=D) for root in roots]
    made = bound.code(0, *places)
    for number, (output, wanted) in enumerate(zip(made, _wanted(func, seed))):
        found = places[[*replay_.open].index(number)].view(wanted.shape) if number in replay_.open else output
        torch.testing.assert_close(found, wanted)
    for output, wanted in zip(bound.run(), _wanted(func, seed)):
        torch.testing.assert_close(output, wanted)


def test_a_result_that_is_written_to_in_part_is_not_open() -> None:
    graph = _record(_on_a_view)
    assert Replay(graph).open == {}
    assert list(Replay(_record(lambda s: (s * _HELD).view(2, 3))).open) == [0]
