"""A file is gone on with only where its rows are those of the function as it is now, whatever has changed."""

from __future__ import annotations

import builtins
import contextvars
import enum
import functools
import json
import math
import os
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.derivative import Derivative

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
    with pytest.raises(KeyboardInterrupt):
        cj.jacobian(func, x, out=folder / "J.npy", chunk_size=2, progress=_stop, **options)


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
        cj.jacobian(func, x, out=folder / "J.npy", resume=True, **options)
    assert _contents(folder) == before


def _finished(func: Any, x: torch.Tensor, folder: Path, expected: torch.Tensor, **options: Any) -> None:
    """Assert that what was begun is gone on with, and right."""
    found = cj.jacobian(func, x, out=folder / "J.npy", resume=True, **options)
    tolerance = 1e-6 if options.get("mode") == "finite-difference" else 1e-9
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


# Where a number may come from: what sets it


GLOBAL = 1.0
VARIABLE: contextvars.ContextVar[float] = contextvars.ContextVar("VARIABLE", default=1.0)


class Constants:
    CLASS_ATTRIBUTE: ClassVar[float] = 1.0


class Thing:
    v = 1.0


class Slotted:
    __slots__ = ("value",)


class Dynamic:
    def __init__(self) -> None:
        self.__dict__["_held"] = {"value": 1.0}

    def __getattr__(self, name: str) -> Any:
        return self._held[name]


class Kind(enum.Enum):
    A = 1.0


@dataclass
class Options:
    scale: float = 1.0
    more: dict[str, Any] = field(default_factory=lambda: {"deep": [1.0]})


def _number_in_a_file(path: Path) -> float:
    return float(json.loads(path.read_text())["scale"])


def _sources(patch: Patch, folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[float], object]]]:
    """Return what reads a number, and what gives it another value."""
    listed, table, thing, slotted, dynamic, options = (
        [1.0],
        {"a": 1.0},
        Thing(),
        Slotted(),
        Dynamic(),
        None,
    )
    slotted.value, options = 1.0, Options()
    array, tensor, local, shared = np.ones(3), torch.ones((), dtype=D), threading.local(), np.ones(1)
    local.v, view = 1.0, torch.from_numpy(shared)
    module, other = types.ModuleType("chunkjac_test_numbers"), types.ModuleType("chunkjac_test_numbers")
    module.v, other.v = 1.0, 2.0
    sys_modules = sys.modules
    patch.setitem(sys_modules, "chunkjac_test_numbers", module)
    patch.setenv("TEST_NUMBER_OF_CHUNKJAC", "1.0")
    patch.chdir(folder)
    file, stored = folder / "number.json", folder / "number.pt"
    file.write_text('{"scale": 1.0}')
    torch.save(tensor, stored)
    registry = weakref.WeakValueDictionary({"a": thing})
    nonlocal_number = 1.0

    @functools.lru_cache
    def cached() -> float:
        return listed[0]

    def closed() -> float:
        return nonlocal_number

    def set_closed(v: float) -> None:
        nonlocal nonlocal_number
        nonlocal_number = v

    def defaults(v: float = 1.0) -> float:
        return v

    def keyword(*, v: float = 1.0) -> float:
        return v

    def attribute() -> float:
        return attribute.v

    attribute.v = 1.0

    def recode(v: float) -> None:
        defaults.__code__ = (lambda v=1.0: 2.0 * v).__code__

    bound = functools.partial(lambda held: held[0], listed)
    return {
        "attribute of an object": (lambda: thing.v, lambda v: setattr(thing, "v", v)),
        "element of a list": (lambda: listed[0], lambda v: listed.__setitem__(0, v)),
        "value of a dictionary": (lambda: table["a"], lambda v: table.update(a=v)),
        "slot": (lambda: slotted.value, lambda v: setattr(slotted, "value", v)),
        "dynamic attribute": (lambda: dynamic.value, lambda v: dynamic._held.update(value=v)),
        "field of a dataclass": (lambda: options.scale, lambda v: setattr(options, "scale", v)),
        "deep in a dataclass": (lambda: options.more["deep"][0], lambda v: options.more["deep"].__setitem__(0, v)),
        "class attribute": (
            lambda: Constants.CLASS_ATTRIBUTE,
            lambda v: patch.setattr(Constants, "CLASS_ATTRIBUTE", v),
        ),
        "value of an enumeration": (lambda: Kind.A.value, lambda v: patch.setattr(Kind.A, "_value_", v)),
        "global": (lambda: GLOBAL, lambda v: patch.setitem(globals(), "GLOBAL", v)),
        "global of a module": (lambda: module.v, lambda v: setattr(module, "v", v)),
        "sys.modules": (
            lambda: __import__("chunkjac_test_numbers").v,
            lambda v: patch.setitem(sys_modules, "chunkjac_test_numbers", other),
        ),
        "closure": (closed, set_closed),
        "defaults": (lambda: defaults(), lambda v: setattr(defaults, "__defaults__", (v,))),
        "keyword defaults": (lambda: keyword(), lambda v: keyword.__kwdefaults__.update(v=v)),
        "code": (lambda: defaults(), recode),
        "attribute of a function": (lambda: attribute(), lambda v: setattr(attribute, "v", v)),
        "argument of a partial": (lambda: bound(), lambda v: listed.__setitem__(0, v)),
        "cleared cache": (lambda: cached(), lambda v: (listed.__setitem__(0, v), cached.cache_clear())),
        "weak registry": (lambda: registry["a"].v, lambda v: setattr(thing, "v", v)),
        "context variable": (lambda: VARIABLE.get(), lambda v: VARIABLE.set(v)),
        "local to a thread": (lambda: local.v, lambda v: setattr(local, "v", v)),
        "environment": (
            lambda: float(os.environ["TEST_NUMBER_OF_CHUNKJAC"]),
            lambda v: patch.setenv("TEST_NUMBER_OF_CHUNKJAC", str(v)),
        ),
        "file": (lambda: _number_in_a_file(file), lambda v: file.write_text(json.dumps({"scale": v}))),
        "whether a file exists": (lambda: 1.0 if file.exists() else 2.0, lambda v: file.unlink()),
        "working directory": (lambda: float(len(Path.cwd().name)), lambda v: patch.chdir(folder.parent.parent)),
        "stored tensor": (lambda: torch.load(stored), lambda v: torch.save(v * tensor, stored)),
        "array": (lambda: float(array[1]), lambda v: array.__setitem__(1, v)),
        "tensor in place": (lambda: tensor, lambda v: tensor.fill_(v)),
        "tensor by .data": (lambda: tensor, lambda v: setattr(tensor, "data", torch.full((), v, dtype=D))),
        "tensor by .data in place": (lambda: tensor, lambda v: tensor.data.fill_(v)),
        "tensor through NumPy's memory": (lambda: view[0], lambda v: shared.fill(v)),
        "torch.full": (
            lambda: torch.full((), 1.0, dtype=D),
            lambda v: patch.setattr(torch, "full", lambda *_, **__: v * tensor),
        ),
        "math": (lambda: math.sqrt(1.0), lambda v: patch.setattr(math, "sqrt", lambda _: v)),
        "builtins": (lambda: divmod(1.0, 1.0)[0], lambda v: patch.setattr(builtins, "divmod", lambda *_: (v, 0.0))),
        "recursion limit": (lambda: sys.getrecursionlimit() / 1000, lambda v: _raise_limit(patch)),
        "default dtype": (
            lambda: 1.0 if torch.get_default_dtype() == torch.float32 else 2.0,
            lambda v: _set_default(patch),
        ),
        "deterministic algorithms": (
            lambda: 2.0 if torch.are_deterministic_algorithms_enabled() else 1.0,
            lambda v: _set_deterministic(patch),
        ),
    }


def _raise_limit(patch: Patch) -> None:
    limit = sys.getrecursionlimit()
    patch.setattr(sys, "getrecursionlimit", lambda: 2 * limit)


def _set_default(patch: Patch) -> None:
    patch.setattr(torch, "get_default_dtype", lambda: D)


def _set_deterministic(patch: Patch) -> None:
    patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)


SOURCES = [
    "attribute of an object", "element of a list", "value of a dictionary", "slot", "dynamic attribute",
    "field of a dataclass", "deep in a dataclass", "class attribute", "value of an enumeration", "global",
    "global of a module", "sys.modules", "closure", "defaults", "keyword defaults", "code", "attribute of a function",
    "argument of a partial", "cleared cache", "weak registry", "context variable", "local to a thread", "environment",
    "file", "whether a file exists", "working directory", "stored tensor", "array", "tensor in place",
    "tensor by .data", "tensor by .data in place", "tensor through NumPy's memory", "torch.full", "math", "builtins",
    "recursion limit", "default dtype", "deterministic algorithms",
]  # fmt: skip


@pytest.mark.parametrize(("source", "mode"), _each_in_a_mode(SOURCES))
def test_a_number_that_has_changed_is_seen_wherever_it_comes_from(
    source: str, mode: str, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "source").mkdir()
    sources = _sources(monkeypatch, tmp_path / "source")
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


# What else changes a function: what makes it, and what changes it


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.last = nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 8)
        self.act, self.scale = nn.LeakyReLU(0.1), 1.0
        self.register_buffer("shift", torch.ones(8))
        self.table = {"out": torch.sin}
        self.to(D).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.act(self.norm(self.first(x)))
        return self.table["out"](self.last(hidden)) * (self.scale if self.training else 2.0) * self.shift


class Doubled(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Weighted(torch.autograd.Function):
    factor = 1.0

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * Weighted.factor


def _add(values: torch.Tensor, much: float = 0.5) -> None:
    with torch.no_grad():
        values += much


CHANGES: dict[str, Callable[[Net, Patch], object]] = {
    "a weight in place": lambda net, _: _add(net.first.weight[2]),
    "one weight a little": lambda net, _: _add(net.last.weight[3, 3], 1e-7),
    "a weight by .data": lambda net, _: setattr(net.first.weight, "data", net.first.weight.data**2),
    "a weight by .data in place": lambda net, _: net.first.weight.data.mul_(2),
    "a weight replaced": lambda net, _: setattr(net.first, "weight", nn.Parameter(2 * net.first.weight)),
    "_parameters": lambda net, _: net.first._parameters.update(weight=nn.Parameter(2 * net.first.weight)),
    "load_state_dict": lambda net, _: net.load_state_dict({k: 2 * v for k, v in net.state_dict().items()}),
    "a buffer": lambda net, _: _add(net.shift),
    "one element of a buffer": lambda net, _: _add(net.shift[0]),
    "a buffer replaced": lambda net, _: setattr(net, "shift", torch.zeros(8, dtype=D)),
    "a number": lambda net, _: setattr(net, "scale", 3.0),
    "a layer replaced": lambda net, _: setattr(net, "act", nn.Tanh()),
    "_modules": lambda net, _: net._modules.update(act=nn.Tanh()),
    "a slope": lambda net, _: setattr(net.act, "negative_slope", 0.5),
    "an epsilon": lambda net, _: setattr(net.norm, "eps", 0.1),
    "a table of functions": lambda net, _: net.table.update(out=torch.tanh),
    "training": lambda net, _: net.eval(),
    "forward of the object": lambda net, _: setattr(net, "forward", lambda x: net.last(net.first(x))),
    "forward of the class": lambda _, patch: patch.setattr(Net, "forward", lambda self, x: self.last(self.first(x))),
    "forward of a layer's class": lambda _, patch: patch.setattr(nn.LeakyReLU, "forward", lambda self, x: x.sin()),
    "__call__ of the class": lambda _, patch: patch.setattr(Net, "__call__", lambda self, x: self.last(self.first(x))),
    "__class__": lambda net, _: setattr(net, "__class__", Doubled),
    "__class__ of a layer": lambda net, _: setattr(net.act, "__class__", nn.Tanh),
    "a forward hook": lambda net, _: net.act.register_forward_hook(lambda m, x, y: 2 * y),
    "a forward pre-hook": lambda net, _: net.act.register_forward_pre_hook(lambda m, x: (2 * x[0],)),
    "a parametrisation": lambda net, _: nn.utils.parametrize.register_parametrization(net.first, "weight", Twice()),
    "pruning": lambda net, _: prune.l1_unstructured(net.first, "weight", 0.5),
    "weight_norm": lambda net, _: _add(parametrizations.weight_norm(net.last).parametrizations.weight.original0),
    "torch.nn.functional": lambda _, patch: patch.setattr(nn.functional, "linear", lambda x, w, b: x @ w.T),
    "torch.nn.functional's activation": lambda _, patch: patch.setattr(nn.functional, "leaky_relu", lambda x, *_: x),
    "a method of tensors": lambda _, patch: patch.setattr(torch.Tensor, "__mul__", lambda a, b: torch.mul(a, b) + a),
    "__getattr__ of modules": lambda _, patch: patch.setattr(
        nn.Module, "__getattr__", lambda self, name, old=nn.Module.__getattr__: _twice(old(self, name), name)
    ),
}  # fmt: skip


class Twice(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def _twice(value: Any, name: str) -> Any:
    return 2 * value if name == "shift" else value


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
