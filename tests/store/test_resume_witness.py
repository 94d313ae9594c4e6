"""A file is gone on with only where its rows are those of the function as it is now, whatever has changed."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.derivative import Derivative
from tests.changes import CHANGES, SOURCES, Net, Weighted, sources_of

D = torch.float64
MODES = ("reverse", "forward", "finite-difference")
W = torch.linspace(-1, 1, 8 * 6, dtype=D).reshape(8, 6)
X = torch.linspace(-0.5, 0.7, 6, dtype=D)
Func = Callable[[torch.Tensor], torch.Tensor]
Patch = pytest.MonkeyPatch


def _base(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(W.to(x.dtype) @ x)


def _stop(progress: cj.Progress) -> None:
    if 2 * progress.done >= progress.total:
        raise KeyboardInterrupt


def _contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def _begin(func: Any, x: torch.Tensor, folder: Path, **options: Any) -> None:
    folder.mkdir(exist_ok=True)
    with pytest.raises(KeyboardInterrupt):  # and nothing is checked: some derivatives here are wrong on purpose
        cj.jacobian(func, x, out=folder / "J.npy", chunk_size=2, progress=_stop, **{"verify": 0, **options})


def _each_in_a_mode(names: Iterable[str]) -> list[Any]:
    """Return names with modes: each with one of them, the long tests with all."""
    return [
        pytest.param(name, mode, marks=() if (i + j) % len(MODES) == 0 else pytest.mark.long)
        for i, name in enumerate(names)
        for j, mode in enumerate(MODES)
    ]


def _refused(func: Any, x: torch.Tensor, folder: Path, match: str = "", **options: Any) -> None:
    """Assert that what was begun is not gone on with, and left as it is."""
    before = _contents(folder)
    with pytest.raises(cj.StoreError, match=match or r"another Jacobian in .*J.npy': "):
        cj.jacobian(func, x, out=folder / "J.npy", resume=True, **{"verify": 0, **options})
    assert _contents(folder) == before


def _finished(func: Any, x: torch.Tensor, folder: Path, expected: torch.Tensor, **options: Any) -> None:
    """Assert that what was begun is gone on with, and right."""
    found = cj.jacobian(func, x, out=folder / "J.npy", resume=True, **{"verify": 0, **options})
    tolerance = 1e-6 if options.get("mode") == "finite-difference" else 1e-9
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize(("source", "mode"), _each_in_a_mode(SOURCES))
def test_a_number_that_has_changed_is_seen_wherever_it_comes_from(
    source: str, mode: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "source").mkdir()
    sources = sources_of(monkeypatch, tmp_path / "source")
    assert [*sources] == SOURCES
    read, change = sources[source]

    def func(x: torch.Tensor) -> torch.Tensor:
        return read() * _base(x)

    def run() -> None:
        folder = tmp_path / "run"
        _begin(func, X, folder, mode=mode)
        _begin(func, X, tmp_path / "same", mode=mode)
        _finished(func, X, tmp_path / "same", torch.func.jacrev(func)(X), mode=mode)
        change(2.0)
        assert read() != 1.0
        _refused(func, X, folder, mode=mode)

    contextvars.copy_context().run(run)


@pytest.mark.parametrize(("change", "mode"), _each_in_a_mode(CHANGES))
def test_a_network_that_has_changed_is_seen(change: str, mode: str, tmp_path: Path, monkeypatch: Patch) -> None:
    net = Net()
    _begin(net, X, tmp_path, mode=mode)
    CHANGES[change](net, monkeypatch)
    if mode == "finite-difference" and change == "one weight a little":
        return  # less than the error of differences
    _refused(net, X, tmp_path, mode=mode)


def test_what_changes_for_all_modules_is_seen(tmp_path: Path) -> None:
    net = Net()
    _begin(net, X, tmp_path, mode="reverse")
    hook = nn.modules.module.register_module_forward_hook(lambda m, x, y: 2 * y)
    try:
        _refused(net, X, tmp_path, mode="reverse")
    finally:
        hook.remove()


def test_a_backward_formula_that_has_changed_is_seen(tmp_path: Path, monkeypatch: Patch) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return Weighted.apply(_base(x))

    _begin(func, X, tmp_path, mode="reverse")
    monkeypatch.setattr(Weighted, "factor", 2.0)
    _refused(func, X, tmp_path, mode="reverse")


def test_a_backward_hook_is_seen(tmp_path: Path) -> None:
    net = Net()
    _begin(net, X, tmp_path, mode="reverse")
    net.act.register_full_backward_hook(lambda m, g, _: (2 * g[0],))
    _refused(net, X, tmp_path, mode="reverse")


@pytest.mark.parametrize("mode", MODES)
def test_another_point_is_seen_and_other_arguments_are(mode: str, tmp_path: Path) -> None:
    def func(x: torch.Tensor, c: Any) -> torch.Tensor:
        return c * _base(x)

    for n, others in enumerate(((X + 0.1, 1.0), (X, 2.0), (X, torch.tensor(2.0, dtype=D)))):
        folder = tmp_path / str(n)
        folder.mkdir()
        with pytest.raises(KeyboardInterrupt):
            cj.jacobian(func, X, 1.0, out=folder / "J.npy", chunk_size=2, progress=_stop, mode=mode)
        with pytest.raises(cj.StoreError, match="are not those of func as it is now"):
            cj.jacobian(func, *others, out=folder / "J.npy", resume=True, mode=mode)


def test_the_same_argument_in_another_place_is_seen(tmp_path: Path) -> None:
    def func(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return _base(x) * (W @ y)

    _begin(lambda x: func(x, X + 1), X, tmp_path, mode="reverse")
    _refused(lambda x: func(X + 1, x), X, tmp_path, mode="reverse")


def test_precision_is_a_fact(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8)).requires_grad_(False), X.float()
    _begin(net, x, tmp_path, mode="reverse")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _refused(net, x, tmp_path, "precision was '1.2e-07', is '0.0078'", mode="reverse")
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium" if before != "medium" else "high")
        _refused(net, x, tmp_path, "float32 products was", mode="reverse")
    finally:
        torch.set_float32_matmul_precision(before)


def test_random_numbers_that_differ_are_seen_and_the_same_are_gone_on_with(tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(_base(x), 0.5)

    torch.manual_seed(0)
    _begin(func, X, tmp_path, mode="reverse")
    torch.manual_seed(1)
    _refused(func, X, tmp_path, "random numbers", mode="reverse")
    torch.manual_seed(0)
    expected = torch.autograd.functional.jacobian(func, X)
    torch.manual_seed(0)
    _finished(func, X, tmp_path, expected, mode="reverse")


# What a combination may hide


def _rows(*rows: torch.Tensor) -> Func:
    return lambda x: torch.stack(rows) @ x


LARGE = torch.logspace(0, 12, 8, dtype=D)[:, None] * W


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(LARGE, LARGE * torch.tensor([2.0] + [1] * 7, dtype=D)[:, None], id="the smallest row of all"),
        pytest.param(W * torch.eye(8, 6, dtype=D), W * torch.eye(8, 6, dtype=D) + W * 1e-9, id="what was zero"),
        pytest.param(0 * W, 1e-200 * W, id="what was nothing"),
        pytest.param(W, W.roll(1, 0), id="rows in another order"),
        pytest.param(W, W.roll(1, 1), id="columns in another order"),
        pytest.param(W, -W, id="the sign"),
        pytest.param(W, W + torch.eye(8, 6, dtype=D).flip(1)[3][:, None].T * 1e-6, id="a little everywhere"),
        pytest.param(1e-300 * W, 2e-300 * W, id="tiny numbers"),
        pytest.param(1e300 * W, 2e300 * W, id="huge numbers"),
    ],
)
def test_small_rows_count(before: torch.Tensor, after: torch.Tensor, mode: str, tmp_path: Path) -> None:
    _begin(_rows(*before), X, tmp_path, mode=mode)
    _refused(_rows(*after), X, tmp_path, mode=mode)
    _finished(_rows(*before), X, tmp_path, before, mode=mode)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("where", [(0, 0), (0, slice(None)), (slice(None), 0), (slice(0, 2), slice(2, 4))])
def test_what_is_not_finite_is_so_at_the_same_places_or_refused(where: Any, mode: str, tmp_path: Path) -> None:
    odd = W.clone()
    odd[where] = float("nan")
    also = odd.clone()
    also[1, 1] = 3.0
    pairs = ((W, odd), (odd, W), (odd, also))
    for n, (before, after) in enumerate(pairs):
        _begin(lambda x, m=before: Placed.apply(x, m), X, tmp_path / str(n), mode=mode)
        _refused(lambda x, m=after: Placed.apply(x, m), X, tmp_path / str(n), mode=mode)
        _finished(lambda x, m=before: Placed.apply(x, m), X, tmp_path / str(n), before, mode=mode)


class Placed(torch.autograd.Function):
    """Have a given Jacobian, of which what is not finite stays in its place."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor, jacobian: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(jacobian), dtype=x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        (j,) = ctx.saved_tensors
        return torch.where(grad[:, None] == 0, 0.0, grad[:, None] * j).sum(0), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: Any) -> torch.Tensor:
        (j,) = ctx.saved_tensors
        return torch.where(tangent == 0, 0.0, tangent * j).sum(1)


def test_rows_of_rounding_alone_are_gone_on_with(tmp_path: Path) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        parts = torch.stack([(k * x).softmax(0).sum() for k in range(1, 5)])
        return torch.cat([parts, (W.to(x.dtype) @ x)[:4]])

    for x in (X, X.float()):
        folder = tmp_path / str(x.dtype)
        _begin(func, x, folder, mode="reverse")
        found = cj.jacobian(func, x, out=folder / "J.npy", mode="reverse", resume=True)
        torch.testing.assert_close(found, torch.func.jacrev(func)(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, D])
def test_rounding_is_no_reason_to_refuse(dtype: torch.dtype, mode: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(40, 60), nn.GELU(), nn.LayerNorm(60), nn.Linear(60, 50), nn.Softmax(-1), nn.Linear(50, 32)
    )
    net, x = net.to(dtype).requires_grad_(False), torch.randn(40).to(dtype)
    _begin(net, x, tmp_path, mode=mode)
    found = cj.jacobian(net, x, out=tmp_path / "J.npy", mode=mode, resume=True)
    again = cj.jacobian(net, x, out=tmp_path / "whole.npy", mode=mode, chunk_size=2)
    assert torch.equal(found, again)


@pytest.mark.parametrize(
    "options", [{"step": 0.3, "scheme": "forward"}, {"scheme": "richardson"}, {"scheme": "complex"}]
)
def test_differences_are_gone_on_with_whatever_their_scheme(options: dict[str, Any], tmp_path: Path) -> None:
    options = {"mode": "finite-difference", **options}
    _begin(_base, X, tmp_path, **options)
    found = cj.jacobian(_base, X, out=tmp_path / "J.npy", resume=True, **options)
    torch.testing.assert_close(found, cj.jacobian(_base, X, **options), rtol=1e-6, atol=1e-6)
    _refused(lambda x: 1.001 * _base(x), X, tmp_path, **options)


def test_no_point_beyond_the_bounds_is_evaluated(tmp_path: Path) -> None:
    low, high = X.min().item(), X.max().item()

    def func(x: torch.Tensor) -> torch.Tensor:
        assert bool(((x >= low) & (x <= high)).all())
        return _base(x)

    options: dict[str, Any] = {"mode": "finite-difference", "bounds": (low, high), "batching": "loop"}
    _begin(func, X, tmp_path, **options)
    _refused(lambda x: 1.001 * func(x), X, tmp_path, **options)
    _finished(func, X, tmp_path, torch.func.jacrev(_base)(X), **options)


# What it costs, and what it says


def test_blocks_that_differ_are_named(tmp_path: Path) -> None:
    other = W.clone()
    other[2:4] *= 2
    _begin(_rows(*W), X, tmp_path, mode="reverse")
    _refused(_rows(*other), X, tmp_path, r"rows 2:4 of 8 are not those of func as it is now", mode="reverse")


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_witness_is_one_direction(mode: str, tmp_path: Path, monkeypatch: Patch) -> None:
    _begin(_base, X, tmp_path, mode=mode)
    seeds, apply = [], Derivative.apply
    monkeypatch.setattr(Derivative, "apply", lambda self, seed: (seeds.append(seed), apply(self, seed))[1])
    _finished(_base, X, tmp_path, torch.func.jacrev(_base)(X), mode=mode)
    assert len(seeds) == 2  # one for the precision, one for what is finished


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["J.npy", "J.zarr"])
def test_a_witness_keeps_to_the_limit(name: str, mode: str, tmp_path: Path) -> None:
    if name == "J.zarr":
        pytest.importorskip("zarr", reason="Zarr needs Python 3.11")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(400, 25), nn.Tanh(), nn.Linear(25, 500)).to(D).requires_grad_(False)
    x, options = torch.randn(400, dtype=D), {"mode": mode, "max_memory": 300_000, "out": tmp_path / name}
    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(net, x, progress=_stop, **options)
    with LiveBytes(torch.device("cpu")) as live:
        found = cj.jacobian(net, x, resume=True, **options)
    assert live.peak_bytes <= 300_000 < found.nbytes
    tolerance = 1e-6 if mode == "finite-difference" else 1e-12
    torch.testing.assert_close(torch.as_tensor(found[:]), torch.func.jacrev(net)(x), rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        net[2].bias += 1  # no derivative
    assert cj.jacobian(net, x, resume=True, **options).shape == found.shape
    with torch.no_grad():
        net[2].weight[3] *= 2
    with pytest.raises(cj.StoreError, match="are not those of func as it is now"):
        cj.jacobian(net, x, resume=True, **options)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_change_of_nothing_that_matters_is_no_reason_to_refuse(mode: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 8).to(D).requires_grad_(False), nn.Dropout(0.1)).eval()
    _begin(net, X, tmp_path, mode=mode)
    net[1].p, net.name = 0.9, "another"
    _finished(lambda z: net(z) * 1.0, X, tmp_path, net[0].weight, mode=mode)


@pytest.mark.parametrize("mode", MODES)
def test_what_was_written_can_be_taken_back(mode: str, tmp_path: Path) -> None:
    from chunkjac._sinks.file import FileSink

    path = tmp_path / "J.npy"
    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(_base, X, out=path, chunk_size=2, progress=_once, mode=mode)
    begun, tried = [], []

    def take_back(progress: cj.Progress) -> None:
        if progress.done == progress.total and not tried:
            tried.append(sinks[-1].missing(0))
            sinks[-1].begin_again()
            begun.append(sinks[-1].missing(0))
            raise KeyboardInterrupt

    sinks: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        made = FileSink.__init__
        patch.setattr(FileSink, "__init__", lambda self, *args: (sinks.append(self), made(self, *args))[1])
        with pytest.raises(KeyboardInterrupt):
            cj.jacobian(_base, X, out=path, resume=True, progress=take_back, mode=mode)
    assert begun == tried  # all that this run had to do, and nothing that was there before
    axis = "rows" if mode == "reverse" else "columns"
    with pytest.raises(cj.StoreError, match=f"not finished: {axis} 2:{8 if mode == 'reverse' else 6} of"):
        cj.open(path)
    torch.testing.assert_close(cj.jacobian(_base, X, out=path, resume=True), torch.func.jacrev(_base)(X))


def _once(progress: cj.Progress) -> None:
    raise KeyboardInterrupt
