"""``out=callback``: each finished block is handed on once, in order, and the Jacobian is never held."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from tests.zoo import example

MODES = ("reverse", "forward", "finite-difference")
F64 = torch.float64
CPU = torch.device("cpu")


class Collector:
    """Keep copies of all blocks."""

    def __init__(self) -> None:
        self.blocks: list[cj.Block] = []

    def __call__(self, block: cj.Block) -> None:
        self.blocks.append(cj.Block(block.axis, block.slice, tree_map(torch.clone, block.values)))

    def assembled(self) -> list[torch.Tensor]:
        """Return for each leaf of the values what all blocks say of it, ``(directions, *leaf.shape)``."""
        assert [i for block in self.blocks for i in range(block.slice.start, block.slice.stop)] == list(
            range(self.blocks[-1].slice.stop)
        )
        return [torch.cat(leaves) for leaves in zip(*(tree_leaves(block.values) for block in self.blocks))]


def test_rows_and_columns_by_hand() -> None:
    """The Jacobian of (x1 x2, x1 + x2, x2^2) at (2, 3) is ((3, 2), (1, 1), (0, 6))."""
    x = torch.tensor([2.0, 3.0], dtype=F64)

    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[0] * x[1], x[0] + x[1], x[1] ** 2])

    J = torch.tensor([[3.0, 2.0], [1.0, 1.0], [0.0, 6.0]], dtype=F64)
    rows, columns, differences = Collector(), Collector(), Collector()
    assert cj.jacobian(func, x, mode="reverse", chunk_size=2, out=rows) is None
    assert cj.jacobian(func, x, mode="forward", chunk_size=1, out=columns) is None
    assert cj.jacobian(func, x, mode="finite-difference", out=differences) is None
    assert [(block.axis, block.slice) for block in rows.blocks] == [("output", slice(0, 2)), ("output", slice(2, 3))]
    assert [(block.axis, block.slice) for block in columns.blocks] == [("input", slice(0, 1)), ("input", slice(1, 2))]
    assert [block.axis for block in differences.blocks] == ["input"]
    assert torch.equal(rows.assembled()[0], J)
    assert torch.equal(columns.assembled()[0], J.T)
    assert torch.allclose(differences.assembled()[0], J.T, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 4])
def test_several_inputs_and_outputs_come_as_trees(mode: str, chunk_size: int | None) -> None:
    def func(x: dict[str, torch.Tensor], y: torch.Tensor) -> Any:
        return {"p": x["a"].sin() * y.sum(), "q": (x["b"] @ y, x["a"].sum() * y[0])}

    generator = torch.Generator().manual_seed(0)
    x = {"a": torch.rand(2, 2, dtype=F64, generator=generator), "b": torch.rand(2, 3, dtype=F64, generator=generator)}
    y = torch.rand(3, dtype=F64, generator=generator)
    expected = torch.func.jacrev(func, argnums=(0, 1))(x, y)
    found = Collector()
    assert cj.jacobian(func, x, y, argnums=(0, 1), mode=mode, chunk_size=chunk_size, out=found) is None
    flat = [tree_leaves(expected["p"]), tree_leaves(expected["q"][0]), tree_leaves(expected["q"][1])]
    n_inputs, outputs = [4, 6, 3], [4, 2, 1]
    J = torch.cat(
        [torch.cat([part.reshape(m, n) for part, n in zip(row, n_inputs)], 1) for row, m in zip(flat, outputs)]
    )
    if mode == "reverse":
        assert set(found.blocks[0].values[0]) == {"a", "b"}
        assert found.blocks[0].values[0]["b"].shape[1:] == (2, 3)
    else:
        assert set(found.blocks[0].values) == {"p", "q"}
        assert found.blocks[0].values["p"].shape[1:] == (2, 2)
    whole = torch.cat([leaf.reshape(len(leaf), -1) for leaf in found.assembled()], 1)
    assert torch.allclose(whole, J if mode == "reverse" else J.T, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batching", ["native", "vmap", "loop"])
def test_blocks_are_what_the_jacobian_is_made_of(mode: str, batching: str) -> None:
    if mode != "finite-difference" and batching != "native":
        pytest.skip("batching is for finite differences")
    options: dict[str, Any] = {"batching": batching} if mode == "finite-difference" else {}
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)).double()
    x, found = torch.linspace(-1, 1, 6, dtype=F64), Collector()
    expected = cj.jacobian(net, x, mode=mode, chunk_size=2, **options)
    cj.jacobian(net, x, mode=mode, chunk_size=2, out=found, **options)
    assert torch.equal(found.assembled()[0], expected if mode == "reverse" else expected.T)
    assert not any(values.requires_grad or values.is_inference() for values in found.assembled())
    found.assembled()[0].clone().requires_grad_().exp().sum().backward()  # what is handed on is of use outside


@pytest.mark.parametrize("mode", MODES)
def test_auxiliary_results_and_reports_come_beside_nothing(mode: str) -> None:
    found = Collector()
    result = cj.jacobian(
        lambda x: (x.sin(), "aux"), torch.ones(3), mode=mode, has_aux=True, return_report=True, out=found
    )
    assert result[:2] == (None, "aux")
    report = result[2]
    assert report.plan.sink == "a callback"
    assert report.plan.allocated_bytes == 0
    assert report.plan.result_bytes == 36
    assert sum(report.chunk_sizes) == 3


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_hands_blocks_on_as_well(mode: str) -> None:
    case = example("mlp")
    first, second, third = Collector(), Collector(), Collector()
    plan = cj.plan(case.func, *case.args, mode=mode, chunk_size=4, out=first)
    assert plan.sink == "a callback"
    assert "in a callback" in str(plan)
    assert plan.run() is None
    assert plan.run(out=second) is None
    held = cj.plan(case.func, *case.args, mode=mode, chunk_size=4)
    assert held.run(out=third) is None
    assert held.predicted_peak_bytes - plan.predicted_peak_bytes == plan.result_bytes
    J = held.run()
    expected = J if mode == "reverse" else J.T
    for found in (first, second, third):
        assert torch.allclose(found.assembled()[0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_memory_is_that_of_a_chunk_whatever_the_number_of_directions(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk of 8 holds 8 rows of n each, a few times; the result has n rows."""
    monkeypatch.setattr("chunkjac._programs.worth._WORTH_COUNTING_S", float("inf"))  # recording takes more
    held_bytes = []
    for n in (256, 1024):
        with LiveBytes(CPU) as tracker:
            cj.jacobian(torch.sin, torch.ones(n, dtype=F64), mode=mode, chunk_size=8, out=lambda block: None)
        held_bytes.append(tracker.peak_bytes)
        assert tracker.peak_bytes < 64 * n * 8
    assert held_bytes[1] < 4.1 * held_bytes[0]


@pytest.mark.parametrize("mode", MODES)
def test_the_result_does_not_count(mode: str) -> None:
    """A Jacobian of 8 MiB in a budget of 2 MiB."""
    x, n_seen = torch.ones(1024, dtype=F64), []
    _, report = cj.jacobian(
        torch.sin,
        x,
        mode=mode,
        max_memory="2MiB",
        out=lambda block: n_seen.append(block.slice.stop - block.slice.start),
        return_report=True,
    )
    assert report.plan.result_bytes == 8 * 2**20
    assert report.peak_bytes <= 2 * 2**20
    assert sum(n_seen) == 1024


@pytest.mark.parametrize("mode", MODES)
def test_what_the_callback_makes_does_not_count(mode: str) -> None:
    kept = []
    _, report = cj.jacobian(
        torch.sin,
        torch.ones(256, dtype=F64),
        mode=mode,
        max_memory="200KiB",
        out=lambda block: kept.append(torch.zeros(2**16, dtype=F64)),
        return_report=True,
    )
    assert len(kept) * 2**19 > report.plan.budget_bytes >= report.peak_bytes
    assert report.growth_bytes == 0


@pytest.mark.parametrize("mode", MODES)
def test_a_chunk_that_runs_out_of_memory_is_handed_on_once(mode: str) -> None:
    """Chunks of more than three rows fail, in the function; each direction comes once all the same."""
    found = Collector()

    def func(x: torch.Tensor) -> torch.Tensor:
        if mode == "finite-difference" and x.dim() == 2 and len(x) > 7:  # two points each, and three in the check
            raise torch.OutOfMemoryError("simulated")
        return _Greedy.apply(x) if mode == "reverse" else x * 2

    n = 10
    if mode == "forward":
        pytest.skip("as in reverse mode: the loop is one")
    _, report = cj.jacobian(func, torch.zeros(n, dtype=F64), mode=mode, chunk_size=n, out=found, return_report=True)
    assert report.n_retries == 2
    assert torch.allclose(found.assembled()[0], 2 * torch.eye(n, dtype=F64), rtol=0, atol=1e-8)
    assert tuple(block.slice.stop - block.slice.start for block in found.blocks) == report.chunk_sizes


class _GreedyBackward(torch.autograd.Function):
    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def forward(grad: torch.Tensor) -> torch.Tensor:
        return grad * 2

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad: torch.Tensor) -> Any:
        if info.batch_size > 3:
            raise torch.OutOfMemoryError("simulated")
        return grad * 2, in_dims[0]


class _Greedy(torch.autograd.Function):
    generate_vmap_rule = False

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return _GreedyBackward.apply(grad)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: torch.Tensor) -> Any:
        return _Greedy.apply(x), in_dims[0]


@pytest.mark.parametrize(
    "error", [ValueError("no"), torch.OutOfMemoryError("none"), MemoryError(), KeyboardInterrupt()]
)
@pytest.mark.parametrize("mode", ["auto", *MODES])
@pytest.mark.parametrize("at", [1, 2])
def test_what_the_callback_raises_comes_through_and_nothing_is_tried_again(
    mode: str, error: BaseException, at: int
) -> None:
    """A block that is given a second time would count twice."""
    seen: list[slice] = []

    def callback(block: cj.Block) -> None:
        seen.append(block.slice)
        if len(seen) == at:
            raise error

    error.__notes__ = []
    with pytest.raises(type(error)) as caught:
        cj.jacobian(torch.sin, torch.zeros(6), mode=mode, chunk_size=2, out=callback)
    assert caught.value is error
    assert seen == [slice(0, 2), slice(2, 4)][:at]
    assert f"this happened at chunk {at}, directions {2 * at - 2}:{2 * at}" in "".join(error.__notes__)


@pytest.mark.parametrize(
    ("options", "names"), [({"create_graph": True}, "create_graph=True"), ({"verify": 1}, "verify")]
)
def test_what_needs_the_whole_jacobian_is_refused_with_both_names(options: dict[str, Any], names: str) -> None:
    x, nothing = torch.ones(3), Collector()
    with pytest.raises(cj.ArgumentError, match=f"{names} .*out=callback"):
        cj.jacobian(torch.sin, x, out=nothing, **options)
    with pytest.raises(cj.ArgumentError, match=f"{names} .*out=callback"):
        cj.plan(torch.sin, x, out=nothing, **options)
    with pytest.raises(cj.ArgumentError, match=f"{names} .*out=callback"):
        cj.plan(torch.sin, x, **options).run(out=nothing)
    assert not nothing.blocks


def test_a_graph_cannot_be_written_into_a_tensor_by_a_plan_either() -> None:
    with pytest.raises(cj.ArgumentError, match="create_graph=True cannot write into out="):
        cj.plan(torch.sin, torch.ones(3), create_graph=True).run(out=torch.empty(3, 3))


def test_a_jacobian_without_elements_has_no_blocks() -> None:
    found = Collector()
    assert cj.jacobian(torch.sin, torch.ones(0), out=found) is None
    assert not found.blocks


def test_a_module_may_be_the_callback() -> None:
    class Norm(nn.Module):
        total = 0.0

        def forward(self, block: cj.Block) -> None:
            self.total += float(block.values.square().sum())

    norm = Norm()
    cj.jacobian(lambda x: 3 * x, torch.ones(4, dtype=F64), out=norm)
    assert norm.total == 36


def test_a_block_is_a_frozen_record() -> None:
    found = Collector()
    cj.jacobian(torch.sin, torch.ones(2), out=found)
    with pytest.raises(FrozenInstanceError):
        found.blocks[0].axis = "input"  # type: ignore[misc]
    assert not hasattr(found.blocks[0], "__dict__")
