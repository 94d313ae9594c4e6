"""What a file's Jacobian depends on: told apart where it differs, the same in any process, cheap to find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._problem.identity.digests import tensor_digest
from chunkjac._problem.identity.facts import facts_of
from chunkjac._problem.problem import Problem

D = torch.float64


def _point(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=D, generator=torch.Generator().manual_seed(1))


# Digests of tensors


@pytest.mark.parametrize("dtype", [D, torch.bfloat16, torch.complex64, torch.complex128, torch.bool, torch.int8])
def test_the_digest_is_of_the_values_whatever_memory_they_lie_in(dtype: torch.dtype) -> None:
    whole = (100 * torch.rand(70, 3, 900, generator=torch.Generator().manual_seed(0))).to(dtype)
    expected = tensor_digest([whole])
    for apart in (whole.transpose(0, 2).contiguous().transpose(0, 2), whole.repeat(2, 1, 2)[:70, :, :900]):
        assert not apart.is_contiguous()
        assert tensor_digest([apart]) == expected
    other = whole.clone()
    other[-1, -1, -1] = 0 if whole[-1, -1, -1] else 1
    assert tensor_digest([other]) != expected


def test_a_tensor_of_one_element_with_a_stride_has_a_digest(tmp_path: Path) -> None:
    x = torch.rand(1, 7)[:, 0]
    found = cj.jacobian(torch.sin, x, out=tmp_path / "J.npy")
    torch.testing.assert_close(found, x.cos().diag())
    assert tensor_digest([x]) == tensor_digest([x.clone()])


def test_conjugated_negated_empty_and_scalar_tensors_have_digests() -> None:
    z = torch.randn(3, 2, dtype=torch.complex64)
    assert tensor_digest([z.conj()]) == tensor_digest([z.conj().resolve_conj()]) != tensor_digest([z])
    assert tensor_digest([z.conj().imag]) == tensor_digest([-z.imag])
    assert tensor_digest([torch.ones(())]) != tensor_digest([torch.ones(1)])
    assert tensor_digest([torch.ones(0, 3)]) != tensor_digest([torch.ones(3, 0)])


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("make", ["to_sparse_coo", "to_sparse_csr", "to_sparse_csc"])
def test_the_digest_of_a_sparse_tensor_is_of_its_components(make: str) -> None:
    dense = torch.eye(2000)
    sparse = getattr(dense, make)()
    other = dense.clone()
    other[7, 7] = 2
    with LiveBytes(torch.device("cpu")) as live:
        digest = tensor_digest([sparse])
    assert live.peak_bytes < 2**17
    assert digest == tensor_digest([getattr(dense, make)()]) != tensor_digest([getattr(other, make)()])


@pytest.mark.filterwarnings("ignore:Sparse", "ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("what", ["transposed", "sparse"])
def test_looking_at_captured_tensors_takes_no_part_of_the_budget(what: str, tmp_path: Path) -> None:
    n = 2000
    func: Callable[[torch.Tensor], Any]
    if what == "transposed":
        weights, limit = torch.rand(n, 300).t(), "1MiB"
        x, func = torch.rand(n), lambda x: weights @ x
    else:
        eye, columns, limit = torch.eye(n).to_sparse_coo(), torch.rand(n, 3), "2MiB"
        x, func = torch.rand(3), lambda x: torch.sparse.mm(eye, columns * x)
    found = cj.jacobian(func, x, mode="forward", max_memory=limit, out=tmp_path / "J.npy")
    torch.testing.assert_close(found, cj.jacobian(func, x, mode="forward"))


# What is told apart


def _facts(func: Callable[..., Any], *args: Any) -> dict[str, Any]:
    problem = Problem.of(func, args or (_point(6),), 0, has_aux=False)
    facts = facts_of(problem, [], "reverse", ())
    assert json.loads(json.dumps(facts)) == facts
    return facts


def _differences(these: tuple[Any, ...], those: tuple[Any, ...]) -> list[str]:
    was, now = _facts(*these), _facts(*those)
    assert was == _facts(*these)
    return [name for name in {**was, **now} if was.get(name) != now.get(name)]


def _times(c: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x**2 * (c[0] if isinstance(c, list) else c)


def _scaled(x: torch.Tensor, c: Any = 1.0) -> torch.Tensor:
    return x * c


def _with_default(value: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def func(x: torch.Tensor, c: Any = value) -> torch.Tensor:
        return x * c

    return func


class Scaling(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.c = c

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.c


class Other(Scaling):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.c


@dataclass
class Physics:
    """Is no module, and has a method that is named."""

    mass: Any

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.step(x)

    def step(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.mass


def _hooked(hook: Callable[..., Any] | None) -> nn.Module:
    net = nn.Sequential(nn.Tanh())
    if hook is not None:
        net[0].register_forward_hook(hook)
    return net


def _calling(inner: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def func(x: torch.Tensor) -> torch.Tensor:
        return inner(x)

    return func


ONES, TWOS = torch.ones(6, dtype=D), torch.full((6,), 2, dtype=D)
LONG, LONGER = np.ones(5000), np.where(np.arange(5000) == 2500, 7.0, 1.0)

PAIRS: dict[str, tuple[Any, Any, str]] = {
    "other code": (lambda x: x**2, lambda x: x**3, "code of"),
    "other code within": (lambda x: (lambda y: y**2)(x), lambda x: (lambda y: y**3)(x), "code of"),
    "other variables": (lambda x: _scaled(x, 2), lambda x: _scaled(x, 3), "code of"),
    "function behind a function": (_calling(lambda x: x.sin()), _calling(lambda x: x.cos()), "code of"),
    "builtin behind a function": (_calling(torch.sin), _calling(torch.cos), "variable inner of"),
    "closed over number": (_times(1.0), _times(2.0), "variable c of"),
    "closed over truth": (_times(1), _times(True), "variable c of"),
    "closed over tensor": (_times(ONES), _times(TWOS), "variable c of"),
    "closed over list": (_times([ONES]), _times([TWOS]), "variable c of"),
    "closed over dictionary": (_times([{"a": 1.0}]), _times([{"a": 2.0}]), "variable c of"),
    "closed over array": (_times(LONG), _times(LONGER), "variable c of"),
    "partial": (partial(_scaled, c=1.0), partial(_scaled, c=2.0), "arguments of a partial"),
    "default": (_with_default(1.0), _with_default(TWOS), "defaults of"),
    "number of a module": (Scaling(1.0), Scaling(2.0), "module Scaling"),
    "tensor of a module": (Scaling(ONES), Scaling(TWOS), "module Scaling"),
    "modules in a list": (Scaling([nn.Tanh()]), Scaling([nn.ReLU()]), "module"),
    "forward": (Scaling(ONES), Other(ONES), "code of tests.problem.test_facts.Other.forward"),
    "layer": (nn.Sequential(nn.Tanh()), nn.Sequential(nn.ReLU()), "module Sequential.0"),
    "slope of a layer": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), "module LeakyReLU"),
    "training": (nn.Sequential(nn.Dropout()), nn.Sequential(nn.Dropout()).eval(), "module Sequential"),
    "hook": (_hooked(lambda m, x, y: y * 2), _hooked(lambda m, x, y: y * 3), "code of"),
    "another hook": (_hooked(None), _hooked(lambda m, x, y: y * 3), "module Sequential.0"),
    "object": (Physics(1.0), Physics(2.0), "function"),
    "bound method": (Physics(1.0).step, Physics(2.0).step, "object of Physics.step"),
    "bound builtin method": (ONES.mul, TWOS.mul, "object of"),
    "compound": (torch.func.vmap(_times(1.0)), torch.func.vmap(_times(2.0)), "variable c of"),
}


@pytest.mark.parametrize("case", PAIRS)
def test_functions_that_differ_are_told_apart(case: str) -> None:
    this, other, name = PAIRS[case]
    differences = _differences((this,), (other,))
    assert any(difference.startswith(name) for difference in differences), differences


def test_arguments_are_told_apart_by_their_values() -> None:
    x = _point(6)
    assert _differences((_scaled, x, LONG), (_scaled, x, LONGER)) == ["arguments"]
    assert _differences((_scaled, x, Physics(1.0)), (_scaled, x, Physics(2.0))) == ["arguments"]


_SCALE = 2.0


def _by_a_global(x: torch.Tensor) -> torch.Tensor:
    return x * _SCALE


def test_a_global_that_is_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    before = _facts(_calling(_by_a_global))
    assert before[f"variable _SCALE of {__name__}"] == "2.0"
    monkeypatch.setitem(globals(), "_SCALE", 3.0)
    assert _facts(_calling(_by_a_global))[f"variable _SCALE of {__name__}"] == "3.0"


# What is the same


def test_what_a_function_changes_itself_is_left_out() -> None:
    calls, counts, n_calls = [0], {"all": 0}, 0

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.n_calls, self.cache, self.table, self.slope = 0, None, {}, 3.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.n_calls += 1
            self.cache = x.detach()
            self.table[len(x)] = x.detach()
            return x * self.slope

    net = Counting()

    def func(x: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        calls.append(n_calls)
        counts["all"] += 1
        return net(x)

    before = _facts(func)
    func(_point(6))
    assert n_calls == calls[-1] == counts["all"] == net.n_calls == 1
    assert _facts(func) == before
    net.slope = 4.0
    assert _facts(func) != before


def test_what_has_no_words_does_not_keep_a_file_from_being_gone_on_with() -> None:
    def make() -> Callable[[torch.Tensor], torch.Tensor]:
        things = object(), iter([1]), torch.Generator(), threading.Lock(), weakref.ref(ONES), (i for i in range(3))
        itself: list[Any] = [1.0]
        itself.append(itself)
        return lambda x: x * (2.0 if things and itself else 1.0)

    assert _facts(make()) == _facts(make())


def test_code_is_the_same_however_often_it_has_run() -> None:
    func = _times(2.0)
    before = _facts(func)
    for _ in range(1000):
        func(ONES)
    assert _facts(func) == before


def test_a_long_list_is_told_by_its_beginning_and_a_digest() -> None:
    long = [*range(10**4)]
    text = _facts(_times(long))["variable c of _times.<locals>.<lambda>"]
    assert text.startswith("[0, 1, 2")
    assert len(text) < 200
    assert _facts(_times([*long[:-1], -1])) != _facts(_times(long))


def everything() -> dict[str, Any]:
    """Return the facts of all functions above, and of one that holds what differs from process to process."""
    kinds = (
        {"alpha", "beta", "gamma"},
        frozenset("delta"),
        dict.fromkeys({"x", "y", "z"}, 1),
        Path("a"),
        D,
        object(),
    )

    def func(x: torch.Tensor) -> torch.Tensor:
        return x if "alpha" in {"alpha", "beta", "gamma"} and kinds else -x

    bare = {case: [_facts(this), _facts(other)] for case, (this, other, _) in PAIRS.items()}
    return {**bare, "kinds": _facts(func), "object": _facts(_scaled, _point(6), object())}


def test_facts_are_the_same_in_another_process() -> None:
    told = "import json; from tests.problem.test_facts import everything; print(json.dumps(everything()))"
    for seed in ("1", "2"):
        child = subprocess.run(
            [sys.executable, "-c", told],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert json.loads(child.stdout.splitlines()[-1]) == json.loads(json.dumps(everything()))


# Files


def test_a_file_of_another_function_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "J.npy"
    cj.jacobian(_times(1.0), _point(6), mode="reverse", out=path)
    with pytest.raises(cj.StoreError, match=r"variable c of .* was '1.0', is '2.0'"):
        cj.jacobian(_times(2.0), _point(6), mode="reverse", out=path, resume=True)
    with pytest.raises(cj.StoreError, match=r"code of .* was '\w+', is None.*code of .* was None"):
        cj.jacobian(_scaled, _point(6), mode="reverse", out=path, resume=True)
    assert torch.equal(cj.jacobian(_times(1.0), _point(6), mode="reverse", out=path, resume=True), cj.open(path))
