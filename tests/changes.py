"""Ways in which a function changes between two runs, from an attribute to a file that it reads."""

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
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

D = torch.float64
Patch = pytest.MonkeyPatch


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


def sources_of(patch: Patch, folder: Path) -> dict[str, tuple[Callable[[], Any], Callable[[float], object]]]:
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
