"""A step that is compiled: the same Jacobian, kept only where it is faster, and no need of a compiler."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._programs.replay.compilation import captured
from chunkjac._programs.replay.forms import _in_turns
from tests.zoo import example

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

W = torch.tensor([[1.0, 2.0, -1.0], [0.5, -3.0, 2.0]])
X = torch.tensor([0.5, -1.0, 2.0])
COMPILED = "linear program, compiled"


def func(x: torch.Tensor) -> torch.Tensor:
    """Return ``(W x)^2``, with the Jacobian ``2 (W x) W``."""
    return (W @ x) ** 2


def by_hand(x: torch.Tensor) -> torch.Tensor:
    return 2 * (W @ x)[:, None] * W


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let modules run as they are in place of their compiled code; note them."""
    modules: list[Any] = []

    def compile_(module: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        assert options == {"dynamic": False, "fullgraph": True}
        modules.append(module)
        return module

    monkeypatch.setattr(torch, "compile", compile_)
    return modules


def let_it_take(monkeypatch: pytest.MonkeyPatch, compiled_s: float, plain_s: float) -> None:
    """Fake the times that the two forms of a step take."""
    monkeypatch.setattr("chunkjac._programs.replay.forms._in_turns", lambda *_: [compiled_s, plain_s])


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_faster_step_is_kept_from_the_first_call_on(
    mode: str, compiler: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_take(monkeypatch, 0.001, 0.004)
    found, report = cj.jacobian(func, X, mode=mode, compile=True, return_report=True)
    assert torch.allclose(found, by_hand(X))
    assert report.plan.rung == COMPILED
    assert "compiled step is faster: 1 against 4 ms for a chunk" in report.plan.reasons


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_slower_step_is_dropped_with_its_reason(
    mode: str, compiler: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_take(monkeypatch, 0.004, 0.001)
    found, report = cj.jacobian(func, X, mode=mode, compile=True, return_report=True)
    assert torch.allclose(found, by_hand(X))
    assert report.plan.rung == "linear program"
    assert "compiled step is slower: 4 against 1 ms for a chunk" in report.plan.reasons


def test_the_least_of_three_turns_is_the_time_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, turns = [0.0], {"a": iter([5.0, 2.0, 3.0]), "b": iter([1.0, 4.0, 4.0])}
    monkeypatch.setattr("chunkjac._programs.replay.forms.time.perf_counter", lambda: now_s[0])
    order: list[str] = []

    def step(name: str) -> Callable[[int], tuple[torch.Tensor, ...]]:
        def run(start: int) -> tuple[torch.Tensor, ...]:
            order.append(name)
            now_s[0] += next(turns[name])
            return ()

        return run

    assert _in_turns((step("a"), step("b")), torch.device("cpu")) == [2.0, 1.0]
    assert order == ["a", "b"] * 3


def test_a_plan_compiles_once_and_is_right_at_other_inputs(
    compiler: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_take(monkeypatch, 1, 2)
    plan = cj.plan(func, X, mode="reverse", compile=True)
    assert not compiler
    for x in (X, 3 * X, X - 1):
        found, report = plan.run(x, return_report=True)
        assert report.plan.rung == COMPILED
        assert torch.allclose(found, by_hand(x))
    assert len(compiler) == 1


@pytest.mark.parametrize("chunk_size", [2, 3, 5])
def test_products_with_seeds_are_made_ahead_for_every_chunk(
    chunk_size: int, compiler: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_take(monkeypatch, 1, 2)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 7))
    x = torch.randn(2, 4)
    found, report = cj.jacobian(net, x, mode="reverse", chunk_size=chunk_size, compile=True, return_report=True)
    assert report.plan.rung == COMPILED
    assert torch.allclose(found, torch.func.jacrev(net)(x), atol=1e-6)
    n_products = sum(node.target is torch.ops.aten.mm.default for node in compiler[0].graph.nodes)
    assert n_products == 1  # of two: the first one is not in the compiled code


def test_a_compiled_step_that_is_wrong_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    let_it_take(monkeypatch, 1, 2)
    monkeypatch.setattr(
        torch, "compile", lambda module, **_: lambda *args: tuple(1.01 * part for part in module(*args))
    )
    found, report = cj.jacobian(func, X, mode="reverse", compile=True, return_report=True)
    assert torch.allclose(found, by_hand(X))
    assert report.plan.rung == "linear program"
    assert "compiled step gives other values than the plain one" in report.plan.reasons


def test_without_a_compiler_a_warning_names_the_remedy_and_the_result_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(module: Any, **_: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in torch._inductor.config.cpp.cxx")

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    plan = cj.plan(func, X, mode="reverse", compile=True)
    with pytest.warns(cj.RungWarning, match=r"No working C\+\+ compiler found.*install a C\+\+ compiler") as caught:
        found, report = plan.run(return_report=True)
    assert len(caught) == 1
    assert torch.allclose(found, by_hand(X))
    assert report.plan.rung == "linear program"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.allclose(plan.run(X), by_hand(X))  # told once


def test_a_platform_that_cannot_compile_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_(*_: Any, **__: Any) -> Any:
        raise RuntimeError("torch.compile is not supported on this Python")

    monkeypatch.setattr(torch, "compile", compile_)
    with pytest.warns(cj.RungWarning, match="not supported"):
        assert torch.allclose(cj.jacobian(func, X, compile=True), by_hand(X))


def test_what_has_no_program_says_that_nothing_is_compiled(compiler: list[Any]) -> None:
    found, report = cj.jacobian(
        lambda x: torch.from_numpy(x.numpy() ** 2), X.double(), compile=True, return_report=True
    )
    assert torch.allclose(found, torch.diag(2 * X.double()))
    assert "nothing is compiled: no linear program runs" in report.plan.reasons
    assert not compiler


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"mode": "finite-difference"}, ("compile=True", "mode='finite-difference'")),
        ({"mode": "forward", "randomness": "different"}, ("compile=True", "randomness='different'")),
        ({"max_memory": "1GiB"}, ("compile=True", "max_memory")),
    ],
)
@pytest.mark.parametrize("call", [cj.jacobian, cj.plan])
def test_what_cannot_be_compiled_is_refused_by_name(
    call: Callable[..., Any], options: dict[str, Any], names: tuple[str, ...]
) -> None:
    with pytest.raises(cj.ArgumentError) as caught:
        call(func, X, compile=True, **options)
    assert all(name in str(caught.value) for name in names)


def test_compile_is_a_bool() -> None:
    with pytest.raises(cj.ArgumentTypeError, match="compile must be a bool"):
        cj.jacobian(func, X, compile="yes")


def test_a_cuda_graph_is_captured_after_a_warm_up_on_a_side_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Stream:
        def __init__(self, *_: Any) -> None: ...

        def wait_stream(self, _: Any) -> None:
            happened.append("wait")

    class Scope:
        def __init__(self, name: str) -> None:
            self.name = name

        def __enter__(self) -> None:
            happened.append(f"{self.name} begins")

        def __exit__(self, *_: Any) -> None:
            happened.append(f"{self.name} ends")

    class Graph:
        def replay(self) -> None:
            happened.append("replay")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: Scope("side stream"))
    monkeypatch.setattr(torch.cuda, "graph", lambda _: Scope("capture"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)

    def step(_: int) -> tuple[torch.Tensor, ...]:
        happened.append("step")
        return (X,)

    replay = captured(step, torch.device("cuda"))
    assert replay(7)[0] is X
    warm_up = ["wait", "side stream begins", *["step"] * 3, "side stream ends", "wait"]
    assert happened == [*warm_up, "capture begins", "step", "capture ends", "replay"]


@pytest.mark.long
@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer_layer", "parameters", "tree_of_outputs"])
def test_compiled_code_has_the_jacobian_that_uncompiled_has(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_it_take(monkeypatch, 1, 2)
    shown = example(name)
    options = {"argnums": shown.argnums, "mode": mode}
    found, report = cj.jacobian(shown.func, *shown.args, compile=True, return_report=True, **options)
    assert report.plan.rung == COMPILED
    leaves, expected = (
        torch.utils._pytree.tree_leaves(tree) for tree in (found, cj.jacobian(shown.func, *shown.args, **options))
    )
    assert all(torch.allclose(mine, yours) for mine, yours in zip(leaves, expected, strict=True))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_attention_compiles_in_both_modes_and_at_other_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    let_it_take(monkeypatch, 1, 2)
    torch.manual_seed(0)
    options = {"dropout": 0.0, "activation": "gelu", "batch_first": True}  # differences do not see kinks
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, **options).double()
    expected = None
    for mode in ("reverse", "forward"):
        plan = cj.plan(layer, torch.randn(1, 4, 8, dtype=torch.float64), mode=mode, compile=True)
        x = torch.linspace(-1, 1, 32, dtype=torch.float64).view(1, 4, 8)
        plan.run()
        found, report = plan.run(x, return_report=True)
        assert report.plan.rung == COMPILED
        expected = (
            cj.jacobian(layer, x, mode="finite-difference", scheme="richardson") if expected is None else expected
        )
        assert torch.allclose(found, expected, atol=1e-6)
