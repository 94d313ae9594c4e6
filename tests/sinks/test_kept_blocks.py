"""A block that is the whole result is the result: nothing is allocated or copied, and nobody else holds its memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

import chunkjac as cj
from chunkjac._chunker.counting import ChunkRoom
from chunkjac._memory.heap import keep_freed_memory
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.vmap import at_once
from chunkjac._problem.problem import Problem
from chunkjac._programs.records import Records
from chunkjac._programs.usage import Usage
from chunkjac._sinks import tensor

pytestmark = pytest.mark.usefixtures("nodes_are_known")  # where they are not, each block is compared and copied
X, Y = torch.linspace(0.1, 1, 6), torch.linspace(1, 2, 6)


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a result was allocated")

    monkeypatch.setattr(tensor, "_allocated", refuse)


@pytest.mark.parametrize("n_outputs", [4, 40], ids=["by rows", "by columns"])
def test_nothing_is_allocated_where_one_chunk_makes_all(n_outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, n_outputs))
    wanted = torch.func.jacrev(net)(X)
    forbid(monkeypatch)
    assert torch.allclose(cj.jacobian(net, X), wanted, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"chunk_size": 2}, {"max_memory": "1MB"}, {"return_report": True}],
    ids=lambda options: next(iter(options)),
)
def test_several_chunks_and_counted_jobs_are_written_in_place(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    with pytest.raises(AssertionError, match="was allocated"):
        cj.jacobian(torch.sin, X, mode="reverse", **options)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize(
    "func",
    [
        lambda x, y: x,
        lambda x, y: x.view(2, 3),
        lambda x, y: x + y,
        lambda x, y: (x + y, x * y),
        lambda x, y: x.expand(3, 6),
        lambda x, y: x.sum() + 0 * y,
        lambda x, y: x.flip(0)[:1],
        lambda x, y: x.detach() * y,
    ],
)
def test_each_tensor_of_the_result_has_its_own_memory(func: Callable[..., Any], mode: str) -> None:
    wanted = tree_leaves(torch.func.jacrev(func, (0, 1))(X, Y))
    found = tree_leaves(cj.jacobian(func, X, Y, argnums=(0, 1), mode=mode))
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
        one.fill_(7)  # none of the others changes
    assert torch.equal(X, torch.linspace(0.1, 1, 6))
    again = tree_leaves(cj.jacobian(func, X, Y, argnums=(0, 1), mode=mode))
    for one, other in zip(again, wanted, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.repeat(3),
        lambda x: torch.stack((x, x, x)),
        lambda x: torch.cat((x.sin(), x, x)),
        lambda x: x.expand(3, 6),
    ],
)
def test_columns_that_are_kept_are_nobody_elses(
    func: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = torch.func.jacrev(func)(X)
    forbid(monkeypatch)
    for _ in range(2):
        found = cj.jacobian(func, X)
        assert torch.allclose(found, wanted)
        found.fill_(7)
    assert torch.equal(X, torch.linspace(0.1, 1, 6))


def test_what_a_function_of_ones_own_gives_back_is_copied() -> None:
    """Its backward pass may hold on to what it gives."""
    held = []

    class Doubled(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return 2 * x

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            made = 2 * grad
            if torch._C._functorch.is_batchedtensor(made):
                held.append(torch._C._functorch.get_unwrapped(made))
            return made

    jacobian = cj.jacobian(Doubled.apply, X, mode="reverse")
    memory = {values.untyped_storage().data_ptr() for values in held}
    assert held
    assert jacobian.untyped_storage().data_ptr() not in memory
    assert torch.equal(jacobian, 2 * torch.eye(6))


@pytest.mark.parametrize("is_missing", [False, True])
def test_rows_at_once_are_those_of_vmap(is_missing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._modes.vmap._MISSING", ["a name"] if is_missing else [])
    rows = torch.randn(5, 3), torch.randn(5, 2, 2)

    def func(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        assert (x.shape, y.shape) == ((3,), (2, 2))
        return x.sum() * y, torch.ones(2), torch.nn.functional.gelu(x)

    for one, other in zip(at_once(func, rows), torch.func.vmap(func)(*rows), strict=True):
        assert torch.equal(one, other)


def test_a_failure_at_once_leaves_no_transform_behind() -> None:
    def fail(x: torch.Tensor) -> tuple[torch.Tensor]:
        raise ValueError("the function's own")

    with pytest.raises(ValueError, match="own"):
        at_once(fail, (torch.ones(2, 2),))
    assert torch._C._functorch.peek_interpreter_stack() is None
    with pytest.raises(RuntimeError, match="randomness"):
        at_once(lambda x: (torch.rand(2) + x,), (torch.ones(2, 2),))
    assert torch._C._functorch.peek_interpreter_stack() is None


def test_keeping_freed_memory_is_no_memory_of_a_job() -> None:
    keep_freed_memory.cache_clear()
    with LiveBytes(torch.device("cpu")) as live:
        keep_freed_memory()
    assert live.peak_bytes == 0


def test_where_there_is_no_room_freed_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise RuntimeError("not enough memory")

    keep_freed_memory.cache_clear()
    monkeypatch.setattr(torch, "UntypedStorage", refuse)
    keep_freed_memory()


def test_a_plan_keeps_blocks_too_and_its_program_writes_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    wanted, plan = torch.func.jacrev(net)(X), cj.plan(net, X)
    with monkeypatch.context() as patch:
        forbid(patch)
        assert torch.allclose(plan.run(), wanted, atol=1e-6)
    assert all(torch.allclose(plan.run(), wanted, atol=1e-6) for _ in range(6))  # by programs too


def test_a_program_keeps_its_memory_after_a_block_that_was_given_away() -> None:
    mode = Reverse(Problem.of(torch.sin, (X,), 0, False, "error"))
    mode.block(slice(0, 6))
    assert mode.gives_away
    usage = Usage(exact_size=None, room=ChunkRoom(2**30), counts_again=False, is_counted=False, is_timed=False)
    mode.use_programs(Records(), usage)
    assert mode.wanted_size(6) == 6
    mode.block(slice(0, 6))
    assert mode.rung == "linear program"
    assert not mode.gives_away
