"""Batches confirmed by single points: wrong columns are found, and right ones are not doubted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._chunker.slices import segments
from chunkjac._modes.differences.bounds import read_bounds
from chunkjac._modes.differences.column_witness import ColumnWitness
from chunkjac._modes.differences.finite_difference import FiniteDifference
from chunkjac._modes.differences.schemes import SCHEME_NAMES
from chunkjac._problem.problem import Problem

F64 = torch.float64


def mode_of(func: Callable[..., Any], *args: torch.Tensor, bounds: Any = None, **options: Any) -> FiniteDifference:
    """Return finite differences of a function, by all of its arguments."""
    problem = Problem.of(func, args, tuple(range(len(args))), has_aux=False)
    limits = read_bounds(bounds, problem.inputs, problem.spec)
    return FiniteDifference(problem, bounds=limits, **options)


def columns_of(mode: FiniteDifference, size: int) -> list[torch.Tensor]:
    """Return all columns, a tensor for each output, made in chunks."""
    n = mode.directions.n
    blocks = [[part.clone() for part in mode.block(slice(i, min(i + size, n)))] for i in range(0, n, size)]
    return [torch.cat(parts) for parts in zip(*blocks)]


def point(*shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    """Return a point that is the same in every run."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(4)) + 0.1


class Wrong(torch.autograd.Function):
    """Double, with a batching rule that is wrong in one element of one row, if that row is there."""

    row = 0
    by = 0.0

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        made = 2 * x
        if len(x) > Wrong.row + 2:
            made[Wrong.row, Wrong.row] += Wrong.by
        return made, 0


@pytest.mark.parametrize("size", [7, 40, 100])
@pytest.mark.parametrize("by", [1e-9, float("nan")])
@pytest.mark.parametrize("row", [4, 6])
def test_one_wrong_element_of_a_batch_is_found_and_the_batch_given_up(
    row: int, by: float, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrong, "row", row)
    monkeypatch.setattr(Wrong, "by", by)
    mode = mode_of(lambda x: Wrong.apply(x).sin().cumsum(0), point(100), scheme="forward")
    assert mode.rung == "vmap(f)"
    columns_of(mode, size)
    assert not mode.is_confirmed()
    assert mode.rung == "loop"
    assert "a column is not what its points give one after the other" in " ".join(mode.reasons)
    (found,) = columns_of(mode, size)
    assert mode.is_confirmed()
    expected = torch.func.jacrev(lambda x: (2 * x).sin().cumsum(0))(point(100))
    assert (found.T - expected).abs().max() < 1e-6


SMOOTH: dict[str, Callable[[torch.Tensor], Any]] = {
    "elementwise": lambda x: x.sin() * x,
    "mixed": lambda x: torch.tanh(x[:, None] * x.exp()).sum(-1),
    "a number": lambda x: (x**3).sum(),
    "of several sizes": lambda x: (1e8 * x.exp(), {"small": 1e-12 * x.cumsum(0), "zero": 0 * x}),
    "constant": lambda x: torch.ones(3, dtype=x.dtype),
    "cancelling": lambda x: x + 1e3 - 1e3,
}


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scheme", SCHEME_NAMES)
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_functions_are_confirmed_without_looking_at_columns(
    name: str, scheme: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ColumnWitness, "has_wrong_column", lambda *_: pytest.fail("columns were looked at"))
    for n, size in ((1, 1), (6, 4), (50, 50)):
        mode = mode_of(SMOOTH[name], point(n, dtype=dtype), scheme=scheme, batching="vmap")
        columns_of(mode, size)
        assert mode.is_confirmed()


def relu_network(dtype: torch.dtype) -> nn.Module:
    """Return a network with a thousand kinks."""
    torch.manual_seed(0)
    layers = nn.Linear(30, 1000), nn.ReLU(), nn.Linear(1000, 20)
    return nn.Sequential(*layers).to(dtype).requires_grad_(False)


CENTRE = point(8)
KINKED: dict[str, tuple[Callable[[torch.Tensor], Any], torch.Tensor, dict[str, Any]]] = {
    "at kinks": (lambda x: x.abs() + x.relu(), torch.zeros(5, dtype=F64), {"scheme": "forward"}),
    "on one side": (lambda x: x.abs(), torch.zeros(5, dtype=F64), {"scheme": "backward"}),
    "ties": (lambda x: x.max(), torch.ones(9, dtype=F64), {"scheme": "forward"}),
    "steps": (lambda x: x.round() + x, torch.arange(6, dtype=F64) + 0.5, {}),
    "networks": (relu_network(torch.float32), point(30, dtype=torch.float32), {}),
    "at a double zero": (lambda x: (x - CENTRE) ** 2, CENTRE, {"scheme": "central4"}),
    "coarse": (lambda x: (100 * x).sin(), point(8), {"step": 0.1}),
    "extrapolated": (lambda x: (30 * x).sin().cumsum(0), point(8), {"scheme": "richardson"}),
    "a noisy solver": (lambda x: (1e6 * x).round() / 1e6, point(8), {"step": 1e-3}),
}


@pytest.mark.parametrize("size", [3, 100])
@pytest.mark.parametrize("name", KINKED)
def test_kinks_and_long_steps_are_not_taken_for_faults(name: str, size: int) -> None:
    func, x, options = KINKED[name]
    step = (options.pop("step"),) if "step" in options else None
    options = {**options, "step": step}
    mode = mode_of(func, x, batching="vmap", **options)
    found = columns_of(mode, size)
    assert mode.is_confirmed()
    alone = columns_of(mode_of(func, x, batching="loop", **options), size)
    torch.testing.assert_close(found, alone, rtol=1e-3, atol=1e-3)


def test_a_wrong_column_is_found_among_kinks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wrong, "row", 3)
    monkeypatch.setattr(Wrong, "by", 1.0)
    net = relu_network(torch.float32)
    mode = mode_of(lambda x: net(Wrong.apply(x)).cumsum(0), point(30, dtype=torch.float32))
    columns_of(mode, 30)
    assert mode.rung == "vmap(f)"
    assert not mode.is_confirmed()
    assert mode.rung == "loop"


def test_points_of_the_check_stay_within_bounds() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        assert bool(((x >= 0) & (x <= 1)).all())
        return x.sqrt()

    for scheme in SCHEME_NAMES[:-1]:
        x = torch.cat([torch.full((3,), 1e-9, dtype=F64), torch.ones(3, dtype=F64), torch.rand(6, dtype=F64)])
        mode = mode_of(func, x, scheme=scheme, bounds=(0.0, 1.0))
        columns_of(mode, 5)
        assert mode.rung == "native batch"
        assert mode.is_confirmed()


def test_a_direction_along_which_there_is_no_value_is_no_fault() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        if (x != 1).sum() > 1:
            raise ValueError
        return x**2

    mode = mode_of(func, torch.ones(5, dtype=F64), batching="loop")
    columns_of(mode, 5)
    assert mode.is_confirmed()


@pytest.mark.parametrize("batching", ["native", "vmap", "loop"])
def test_a_function_that_drifts_is_told(batching: str) -> None:
    factor = 1.0

    def func(x: torch.Tensor) -> torch.Tensor:
        return x * factor

    mode = mode_of(func, point(20), batching=batching)
    mode.block(slice(0, 10))
    factor = 2.0
    with pytest.raises(cj.FunctionError, match="different answers for the same input"):
        _ = mode.block(slice(10, 20)), mode.is_confirmed()


def test_the_check_takes_a_few_evaluations_of_one_point() -> None:
    calls: list[torch.Size] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return x.sin()

    mode = mode_of(func, point(1000))
    columns_of(mode, 100)
    calls.clear()
    assert mode.is_confirmed()
    assert calls == [(1000,)] * 2  # along the combination


def test_directions_are_summed_wherever_chunks_begin() -> None:
    def func(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return a.exp().sum() * b.sin(), a.cumsum(0)

    mode = mode_of(func, point(3), point(2, 2))
    for chunk in (slice(2, 5), slice(0, 3), slice(2, 5), slice(5, 7)):  # some sinks take directions twice
        mode.block(chunk)
    assert mode.is_confirmed()
    assert [part.leaf for part in segments(slice(2, 5), [3, 4])] == [0, 1]
