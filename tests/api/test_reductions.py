"""What is made of a Jacobian without holding it: the same as from the whole, in less memory."""

from __future__ import annotations

import importlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._sinks.reductions.norms import stable_norm
from chunkjac._sinks.reductions.tiles import mirrored

MODES = ("reverse", "forward", "finite-difference")
D = torch.float64
CPU = torch.device("cpu")


def _net(*widths: int, dtype: torch.dtype = D) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(widths)]
    return nn.Sequential(*layers).to(dtype).requires_grad_(False)


def _point(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, dtype=D, generator=torch.Generator().manual_seed(seed))


def _close(found: Any, expected: Any, mode: str = "reverse") -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if mode == "finite-difference" else 1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 5, 50])
def test_gram_matrices_are_products_of_the_dense_jacobian(mode: str, chunk_size: int | None) -> None:
    net, x, x2 = _net(12, 20, 9), _point(12), _point(12, seed=2)
    jacobian, other = torch.func.jacrev(net)(x), torch.func.jacrev(net)(x2)
    options: Any = {"mode": mode, "chunk_size": chunk_size}
    _close(cj.gram(net, x, **options), jacobian @ jacobian.T, mode)
    _close(cj.gram(net, x, side="input", **options), jacobian.T @ jacobian, mode)
    _close(cj.gram(net, x, x2=x2, **options), jacobian @ other.T, mode)


def test_a_gram_matrix_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    found = cj.gram(lambda x: torch.stack([x.sum(), x[0] * x[1]]), x)
    assert found.tolist() == [[3.0, 3.0], [3.0, 5.0]]


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_trees_are_numbered_in_order(mode: str) -> None:
    args = {"a": _point(2), "b": _point(2, 2).float()}, _point(3)

    def func(p: dict[str, torch.Tensor], y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return p["a"].sum() * y.sin() + p["b"].sum(), (p["b"] * y[0]).float()

    tree = torch.func.jacrev(func, argnums=(0, 1))(*args)
    rows = [
        torch.cat([part.double().reshape(leaf.numel(), -1) for part in (*by[0].values(), by[1])], 1)
        for leaf, by in zip(func(*args), tree)
    ]
    jacobian = torch.cat(rows)
    options: Any = {"argnums": (0, 1), "mode": mode, "chunk_size": 3}
    tolerance = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(cj.gram(func, *args, **options), jacobian @ jacobian.T, **tolerance)
    torch.testing.assert_close(cj.gram(func, *args, side="input", **options), jacobian.T @ jacobian, **tolerance)
    norms = cj.norms(func, *args, **options)
    found = torch.cat([part.double().reshape(-1) for part in (*norms.columns[0].values(), norms.columns[1])])
    torch.testing.assert_close(found, jacobian.norm(dim=0), **tolerance)
    found = torch.cat([part.double().reshape(-1) for part in norms.rows])
    torch.testing.assert_close(found, jacobian.norm(dim=1), **tolerance)
    assert norms.rows[1].dtype == torch.float32
    torch.testing.assert_close(norms.frobenius, jacobian.norm(), **tolerance)


def _kernel_job() -> tuple[Any, dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return a network as a function of its parameters, these, inputs, and the dense Jacobian."""
    net = _net(20, 200, 200, 10, dtype=torch.float32)
    parameters = {name: value.detach() for name, value in net.named_parameters()}
    inputs = _point(8, 20).float()

    def func(parameters: dict[str, torch.Tensor], inputs: torch.Tensor) -> Any:
        return torch.func.functional_call(net, parameters, (inputs,))

    tree = torch.func.jacrev(func)(parameters, inputs)
    return func, parameters, inputs, torch.cat([part.reshape(80, -1) for part in tree.values()], 1)


@pytest.mark.parametrize("mode", ["auto", "reverse"])
@pytest.mark.parametrize("share", [1.0, 0.4, 0.15, 0.1])
def test_a_neural_tangent_kernel_takes_a_part_of_the_jacobians_memory(share: float, mode: str) -> None:
    func, parameters, inputs, jacobian = _kernel_job()
    expected = jacobian.double() @ jacobian.double().T
    limit_bytes = int(share * jacobian.numel() * 4)
    cj.gram(func, parameters, inputs)  # lazy first-call work
    with LiveBytes(CPU) as live:
        found, report = cj.gram(func, parameters, inputs, mode=mode, max_memory=limit_bytes, return_report=True)
    if share < 1:
        assert report.plan.rung == "vmap(jvp(vjp))" if mode == "auto" else len(report.chunk_sizes) > 20
    assert live.peak_bytes <= limit_bytes
    assert report.peak_bytes <= limit_bytes
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found, found.T)


def test_with_room_for_all_rows_each_is_computed_once() -> None:
    """Two passes over the rows, or a pass back and one forth for each column, take several times as long."""
    w = torch.linspace(-1, 1, 5_000_000)
    found, report = cj.gram(lambda w: torch.stack([w.sum(), w.sin().sum(), (w * w).sum(), w[0]]), w, return_report=True)
    assert sum(report.chunk_sizes) == 4
    jacobian = torch.stack([torch.ones_like(w), w.cos(), 2 * w, torch.zeros_like(w)])
    jacobian[3, 0] = 1
    torch.testing.assert_close(found, (jacobian.double() @ jacobian.double().T).float(), rtol=1e-4, atol=10)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every matrix be too large for one tile."""
    monkeypatch.setattr("chunkjac._sinks.reductions.gram.tile_bytes", lambda *_: 1)


def _rung_of(func: Any, *args: Any, **options: Any) -> tuple[torch.Tensor, str]:
    """Return a Gram matrix, and the way in which it was made."""
    found, report = cj.gram(func, *args, return_report=True, **options)
    return found, report.plan.rung


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("chunk_size", [None, 1, 4, 50])
def test_columns_by_passes_back_and_forth_are_those_of_the_product(chunk_size: int | None) -> None:
    net, x, x2 = _net(30, 20, 9), _point(30), _point(30, seed=2)
    jacobian, other = torch.func.jacrev(net)(x), torch.func.jacrev(net)(x2)
    found, rung = _rung_of(net, x, chunk_size=chunk_size)
    assert rung == "vmap(jvp(vjp))"
    _close(found, jacobian @ jacobian.T)
    found, rung = _rung_of(net, x, x2=x2, chunk_size=chunk_size)
    assert rung == "vmap(jvp(vjp))"
    _close(found, jacobian @ other.T)
    wide, few = _net(6, 20, 2000), _point(6)
    jacobian = torch.func.jacrev(wide)(few)
    found, rung = _rung_of(wide, few, side="input", chunk_size=chunk_size)
    assert rung == "vmap(vjp(jvp))"
    _close(found, jacobian.T @ jacobian)


class _Twofold(torch.autograd.Function):
    """Be the identity; the derivative is 1 backward and 2 forward."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.clone()

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return 2 * tangent


@pytest.mark.usefixtures("small_tiles")
def test_random_functions_and_wrong_derivatives_go_row_by_row() -> None:
    x = _point(30)

    found, rung = _rung_of(lambda x: _Twofold.apply(x)[:9], x)
    assert rung != "vmap(jvp(vjp))"
    _close(found, torch.eye(9, dtype=D))
    found, rung = _rung_of(lambda x: torch.nn.functional.dropout(x, 0.5)[:9], x)
    assert rung != "vmap(jvp(vjp))"
    assert set(found.diagonal().tolist()) <= {0.0, 4.0}

    class OnlyBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return 3 * x

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return 3 * grad

    with pytest.warns(cj.RungWarning):
        found, report = cj.gram(lambda x: OnlyBackward.apply(x)[:9], x, return_report=True)
    _close(found, 9 * torch.eye(9, dtype=D))
    assert any(reason.startswith("not by one pass back and one forth: ") for reason in report.plan.reasons)


@pytest.mark.usefixtures("small_tiles")
def test_half_precision_stays_with_rows() -> None:
    x = torch.full((64,), 0.5, dtype=torch.bfloat16)
    found, rung = _rung_of(lambda x: (x * x)[:2], x)
    assert rung != "vmap(jvp(vjp))"
    assert found.tolist() == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("max_memory", [80_000, 150_000, 300_000])
def test_smaller_tiles_are_tried_where_no_mode_was_asked_for(max_memory: int) -> None:
    """Half precision has no way but by rows; half of the room leaves too little for a chunk here."""
    weight = torch.randn(3000, 40, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = torch.zeros(3000, dtype=torch.bfloat16)
    found, report = cj.gram(lambda x: torch.tanh(weight.T @ x), x, max_memory=max_memory, return_report=True)
    torch.testing.assert_close(found, weight.T.float() @ weight.float(), rtol=1e-4, atol=1e-2)
    assert report.peak_bytes <= max_memory
    assert any(reason.startswith("a tile of 50% of the room") for reason in report.plan.reasons)


def test_what_no_tile_makes_fit_is_refused_with_what_is_needed() -> None:
    func, parameters, inputs, jacobian = _kernel_job()
    with pytest.raises(cj.BudgetError, match="max_memory of") as caught:
        cj.gram(func, parameters, inputs, mode="reverse", max_memory=300_000)
    needed_bytes = caught.value.needed_bytes
    assert needed_bytes is not None
    found = cj.gram(func, parameters, inputs, mode="reverse", max_memory=int(1.05 * needed_bytes))
    torch.testing.assert_close(found, jacobian @ jacobian.T, rtol=1e-4, atol=1e-4)


def test_kernels_between_inputs_of_other_sizes_are_products_of_both_jacobians() -> None:
    func, parameters, inputs, jacobian = _kernel_job()
    others = _point(3, 20, seed=5).float()
    tree = torch.func.jacrev(func)(parameters, others)
    other = torch.cat([part.reshape(30, -1) for part in tree.values()], 1)
    for mode in ("reverse", "forward"):
        if mode == "forward":
            func_of_bias = lambda b, p, x: func({**p, "0.0.bias": b}, x)  # noqa: E731
            args = parameters["0.0.bias"], parameters, inputs
            found = cj.gram(func_of_bias, *args, x2=(*args[:2], others), mode=mode)
            left = torch.func.jacrev(func_of_bias)(*args).reshape(80, -1)
            right = torch.func.jacrev(func_of_bias)(*args[:2], others).reshape(30, -1)
            torch.testing.assert_close(found, left @ right.T, rtol=1e-4, atol=1e-5)
        else:
            found = cj.gram(func, parameters, inputs, x2=(parameters, others), mode=mode, max_memory="3MB")
            torch.testing.assert_close(found, jacobian @ other.T, rtol=1e-4, atol=1e-5)


def test_differences_at_two_points_move_either_point() -> None:
    x, x2 = torch.tensor([1.0, 3e6]), torch.tensor([3.0, 1e6])
    found = cj.gram(lambda x: 3 * x, x, x2=x2, mode="finite-difference")
    torch.testing.assert_close(found, 9 * torch.eye(2), rtol=1e-2, atol=1e-2)


def test_points_of_different_sizes_have_no_common_step() -> None:
    def black_box(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.sin(x.detach().numpy()))

    x, x2 = torch.tensor([0.5, 1.0], dtype=D), torch.tensor([1e7, 1e-3], dtype=D)
    for mode in ("auto", "finite-difference"):
        with pytest.raises(cj.ArgumentError, match=r"x2 has elements of another size.*give step"):
            cj.gram(black_box, x, x2=x2, mode=mode)
    _close(cj.gram(black_box, x, x2=x2, step=1e-5), (x.cos() * x2.cos()).diag(), "finite-difference")
    _close(cj.gram(torch.sin, x, x2=x2), (x.cos() * x2.cos()).diag())


def test_a_point_between_that_overflows_is_no_zero() -> None:
    x = torch.tensor([3e38])
    with pytest.raises(cj.ArgumentError, match="out of the range"):
        cj.gram(lambda x: x / 2, x, x2=x, mode="finite-difference")


@pytest.mark.parametrize("max_memory", [None, "300KiB"])
@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
def test_keys_of_the_second_point_may_come_in_another_order(mode: str, max_memory: str | None) -> None:
    a, b, x, y, x2, y2 = (_point(*shape, seed=i) for i, shape in enumerate([(24, 1200)] * 2 + [(1200,)] * 4))

    def func(p: dict[str, torch.Tensor]) -> torch.Tensor:
        return a @ p["x"].sin() + b @ p["y"].sin()

    expected = (a * x.cos()) @ (a * x2.cos()).T + (b * y.cos()) @ (b * y2.cos()).T
    found = cj.gram(func, {"x": x, "y": y}, x2={"y": y2, "x": x2}, mode=mode, max_memory=max_memory)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_arguments_may_be_counted_from_the_last_one(mode: str) -> None:
    x, y = _point(3), _point(3, seed=2)
    options: Any = {"x2": (2 * x, 3 * y), "mode": mode}
    _close(cj.gram(torch.mul, x, y, argnums=-1, **options), (2 * x**2).diag(), mode)
    _close(cj.gram(torch.mul, x, y, argnums=(-1, 0), **options), (2 * x**2 + 3 * y**2).diag(), mode)


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_points_may_have_different_numbers_of_outputs(mode: str) -> None:
    def func(w: torch.Tensor, rows: list[torch.Tensor]) -> list[torch.Tensor]:
        return [(w @ row).sin() for row in rows]

    w, rows = _point(3), [*_point(4, 3, seed=2)]
    one, others = (torch.stack(torch.func.jacrev(func)(w, part)) for part in (rows[:1], rows[1:]))
    _close(cj.gram(func, w, rows[:1], x2=(w, rows[1:]), mode=mode), one @ others.T, mode)


def test_a_second_point_that_is_not_like_the_first_is_refused_with_what_differs() -> None:
    x = _point(3)
    _close(cj.gram(torch.sin, x, x2=(x,)), x.cos().square().diag())
    for args, x2, why in (
        ((x,), [x], "found list"),
        ((x,), 1.0, "found float"),
        ((x, x), (x,), "a tuple of 2 arguments.*found 1"),
        (({"a": x},), {"b": x}, "tree"),
        (({"a": x},), (x,), "tree"),
    ):
        with pytest.raises((cj.ArgumentError, cj.ArgumentTypeError), match=f"x2 must .*{why}"):
            cj.gram(lambda *_: x, *args, x2=x2)


@pytest.mark.parametrize("max_memory", [None, 34_154_432])
def test_what_has_no_derivatives_is_not_taken_back_and_forth(max_memory: int | None) -> None:
    a, x = _point(48, 2048), _point(2048, seed=2)
    found, report = cj.gram(lambda x: a @ x.detach().sin(), x, side="input", max_memory=max_memory, return_report=True)
    jacobian = a * x.cos()
    assert report.plan.mode == "finite-difference"
    torch.testing.assert_close(found, jacobian.T @ jacobian, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 0.0])
def test_a_wrong_forward_formula_is_found_however_small_its_rows_are(scale: float) -> None:
    a, x = _point(40, 3000), _point(3000, seed=2)

    def func(x: torch.Tensor) -> torch.Tensor:
        y = a @ x
        return torch.cat([y[:20], scale * _Twofold.apply(y[20:])])

    rows = torch.cat([a[:20], scale * a[20:]])
    found, report = cj.gram(func, x, max_memory=300_000, return_report=True)
    assert (report.plan.rung == "vmap(jvp(vjp))") == (scale == 0)
    sizes = rows.norm(dim=1).clamp(min=1e-100)
    torch.testing.assert_close(found / sizes.outer(sizes), rows @ rows.T / sizes.outer(sizes), rtol=0, atol=1e-12)


@pytest.mark.sweep
@pytest.mark.parametrize("side", ["output", "input"])
@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_nothing_exceeds_the_limit_beside_the_blocks(mode: str, side: str) -> None:
    a, x = _point(512, 600).float(), _point(600, seed=2).float()
    limit_bytes = 4 * (512 if side == "output" else 600) ** 2 + 60_000
    with LiveBytes(CPU) as live:
        found = cj.gram(lambda x: a @ x.sin(), x, side=side, mode=mode, max_memory=limit_bytes)
    assert live.peak_bytes <= limit_bytes
    jacobian = (a * x.cos()).double()
    expected = jacobian @ jacobian.T if side == "output" else jacobian.T @ jacobian
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.sweep
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [70, 2000])
def test_what_an_error_says_is_needed_is_enough(n: int, mode: str) -> None:
    a, x, x2 = _point(40, n).float(), _point(n, seed=2).float(), _point(n, seed=3).float()
    vectors = torch.ones(50, n)

    def func(x: torch.Tensor) -> torch.Tensor:
        return a @ x.sin()

    for call in (
        lambda limit: cj.gram(func, x, max_memory=limit, mode=mode),
        lambda limit: cj.gram(func, x, x2=x2, max_memory=limit, mode=mode),
        lambda limit: cj.norms(func, x, max_memory=limit, mode=mode),
        lambda limit: cj.matvec(func, x, vectors, max_memory=limit, mode=mode),
    ):
        with pytest.raises(cj.BudgetError) as caught:
            call(1)
        needed_bytes = caught.value.needed_bytes
        assert needed_bytes is not None
        with LiveBytes(CPU) as live:
            call(needed_bytes)
        assert live.peak_bytes <= needed_bytes


def test_progress_counts_what_is_computed_several_times() -> None:
    func, parameters, inputs, jacobian = _kernel_job()
    seen: list[cj.Progress] = []
    cj.gram(func, parameters, inputs, mode="reverse", max_memory=jacobian.numel(), progress=seen.append)
    assert seen[-1].done == seen[-1].total > 80
    assert seen[-1].before == 0


@pytest.mark.parametrize("fails", [[True], [True, True], [False, True], [False, True, False, True]])
@pytest.mark.parametrize("where", ["tiles._pairs", "norms.stable_norm"])
def test_no_sum_has_a_block_twice_though_memory_ran_out_in_it(
    monkeypatch: pytest.MonkeyPatch, where: str, fails: list[bool]
) -> None:
    net, x = _net(12, 20, 9), _point(12)
    expected = cj.gram(net, x, mode="forward"), cj.norms(net, x, mode="forward")
    module, _, name = where.partition(".")
    real = getattr(importlib.import_module(f"chunkjac._sinks.reductions.{module}"), name)
    ahead = iter(fails)

    def failing(*args: Any, **options: Any) -> Any:
        if next(ahead, False):
            raise torch.OutOfMemoryError("simulated")
        return real(*args, **options)

    monkeypatch.setattr(f"chunkjac._sinks.reductions.{where}", failing)
    _close(cj.gram(net, x, mode="forward"), expected[0])
    norms = cj.norms(net, x, mode="forward")
    _close(norms.rows, expected[1].rows)
    _close(norms.columns, expected[1].columns)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_norms_are_those_of_the_dense_jacobian(mode: str, chunk_size: int | None) -> None:
    net, x = _net(12, 20, 9), _point(12)
    jacobian = torch.func.jacrev(net)(x)
    norms = cj.norms(net, x, mode=mode, chunk_size=chunk_size)
    _close(norms.rows, jacobian.norm(dim=1), mode)
    _close(norms.columns, jacobian.norm(dim=0), mode)
    _close(norms.frobenius, jacobian.norm(), mode)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize(
    ("scale", "dtype"), [(1e200, D), (1e-200, D), (1e30, torch.float32), (1e-30, torch.float32), (1.0, torch.bfloat16)]
)
def test_no_square_is_out_of_range(mode: str, scale: float, dtype: torch.dtype) -> None:
    matrix = torch.tensor([[3.0, 0.0], [4.0, 0.0], [0.0, 12.0]], dtype=dtype) * scale
    norms = cj.norms(lambda x: matrix @ x, torch.zeros(2, dtype=dtype), mode=mode, chunk_size=1)
    assert norms.columns.double() / scale == pytest.approx([5.0, 12.0], rel=1e-6)
    assert norms.rows.double() / scale == pytest.approx([3.0, 4.0, 12.0], rel=1e-6)
    assert norms.frobenius.double().item() / scale == pytest.approx(13.0, rel=1e-6)


def test_stable_norms_by_hand() -> None:
    values = torch.tensor([[3e-200, 4e-200], [3e200, 4e200], [0.0, 0.0], [torch.inf, 1.0], [torch.nan, 1.0]], dtype=D)
    found = stable_norm(values, 1)
    assert found[:3].tolist() == pytest.approx([5e-200, 5e200, 0.0], rel=1e-14)
    assert found[3] == torch.inf
    assert found[4].isnan()
    assert stable_norm(torch.zeros(3, 0), 1).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_a_diagonal_is_that_of_the_dense_jacobian(mode: str, chunk_size: int | None) -> None:
    net, x = _net(12, 12), _point(3, 4)
    expected = torch.func.jacrev(lambda x: net(x.view(-1)))(x).view(12, 12).diagonal().view(3, 4)
    _close(cj.diagonal(lambda x: net(x.view(-1)), x, mode=mode, chunk_size=chunk_size), expected, mode)


def test_a_diagonal_across_trees_pairs_elements_of_the_same_number() -> None:
    args = {"a": _point(2), "b": _point(3)}

    def func(p: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        whole = torch.cat([p["a"], p["b"]]) * torch.arange(1.0, 6.0, dtype=D)
        return whole[:1], whole[1:4], whole[4:]

    for mode in MODES:
        found = cj.diagonal(func, args, mode=mode, chunk_size=2)
        _close(torch.cat([found["a"], found["b"]]), torch.arange(1.0, 6.0, dtype=D), mode)


def test_a_diagonal_needs_a_square_jacobian() -> None:
    with pytest.raises(cj.FunctionError, match="as many outputs as inputs, found 9 outputs and 12 inputs"):
        cj.diagonal(_net(12, 9), _point(12))


@pytest.mark.parametrize("mode", MODES)
def test_numbers_without_dimensions(mode: str) -> None:
    x = torch.tensor(3.0, dtype=D)
    _close(cj.gram(lambda x: x**2, x, mode=mode), torch.tensor([[36.0]], dtype=D), "finite-difference")
    _close(cj.gram(lambda x: x**2, x, mode=mode, side="input"), torch.tensor([[36.0]], dtype=D), "finite-difference")
    _close(cj.diagonal(lambda x: x**2, x, mode=mode), torch.tensor(6.0, dtype=D), mode)
    _close(cj.norms(lambda x: x**2, x, mode=mode).columns, torch.tensor(6.0, dtype=D), mode)
    _close(cj.matvec(lambda x: x**2, x, torch.ones(2, dtype=D), mode=mode), 6 * torch.ones(2, dtype=D), mode)
    _close(cj.rmatvec(lambda x: x**2, x, torch.ones(2, dtype=D), mode=mode), 6 * torch.ones(2, dtype=D), mode)


def test_reductions_of_nothing_are_zeros() -> None:
    empty = torch.zeros(0, dtype=D)
    assert cj.gram(lambda x: x.sum() * torch.ones(2, dtype=D), empty).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert cj.gram(torch.sin, empty).shape == (0, 0)
    assert cj.norms(lambda x: x.sum(), empty).frobenius.item() == 0.0
    assert cj.diagonal(torch.sin, empty).shape == (0,)


def test_numbers_in_half_precision_are_added_up_in_single() -> None:
    x = torch.full((4096,), 0.5, dtype=torch.bfloat16)
    found = cj.gram(lambda x: (x * x).sum().reshape(1), x)
    assert found.dtype == torch.float32
    assert found.item() == 4096.0


def test_bad_arguments_are_refused_with_a_remedy() -> None:
    x = _point(3)
    with pytest.raises(cj.ArgumentError, match="side must be one of"):
        cj.gram(torch.sin, x, side="outputs")
    with pytest.raises(cj.ArgumentTypeError, match="norms takes no verify; its options are argnums"):
        cj.norms(torch.sin, x, verify=1)  # type: ignore[call-arg]
    with pytest.raises(cj.ArgumentError, match="side='output'"):
        cj.gram(torch.sin, x, x2=x, side="input")
    with pytest.raises(cj.ArgumentError, match="x2 must be like x"):
        cj.gram(torch.sin, x, x2=_point(4))
    with pytest.raises(cj.ArgumentTypeError, match="tuple of 2 arguments"):
        cj.gram(torch.mul, x, x, x2=x)
    with pytest.raises(cj.ArgumentError, match="bounds are for one point"):
        cj.gram(torch.sin, x, x2=x, mode="finite-difference", bounds=(0.0, 1.0))


def test_everything_is_left_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(D)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = _point(5, 4)
    cj.gram(net, x, x2=2 * x)
    cj.norms(lambda x: net(x), x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_mirroring_copies_the_upper_triangle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._sinks.reductions.tiles._STRIP", 3)
    matrix = _point(8, 8)
    upper = matrix.triu()
    assert torch.equal(mirrored(matrix.clone()), upper + upper.triu(1).T)
