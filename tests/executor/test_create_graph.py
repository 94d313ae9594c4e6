"""Jacobians that are differentiated again: right gradients, in the memory of a chunk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes

D = torch.float64
CPU = torch.device("cpu")
OURS = {"jacrev": cj.jacrev, "jacfwd": cj.jacfwd}


def network(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers).to(D)


def gradients(loss: torch.Tensor, sources: list[torch.Tensor]) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, sources, allow_unused=True))


def assert_same(found: list[Any], expected: list[Any]) -> None:
    """Compare to 1e-12 of the largest gradient: a small or vanishing one is what sums of that size leave."""
    limit = 1e-12 * max(float(theirs.abs().max()) for theirs in expected if theirs is not None)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None or not ours.any()
        else:
            assert torch.allclose(ours, theirs, rtol=0, atol=limit)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize("name", OURS)
def test_gradients_to_inputs_and_parameters_are_those_of_torch_func(name: str, chunk_size: int | None) -> None:
    net = network(5, 8, 7)
    x = torch.randn(5, dtype=D, requires_grad=True)
    sources = [x, *net.parameters()]
    weights = torch.randn(7, 5, dtype=D)
    expected = gradients((weights * torch.func.jacrev(net)(x) ** 2).sum(), sources)
    found = gradients((weights * OURS[name](net, chunk_size=chunk_size)(x) ** 2).sum(), sources)
    assert_same(found, expected)


@pytest.mark.parametrize("name", OURS)
def test_trees_captured_values_and_inputs_with_a_history_get_their_gradients(name: str) -> None:
    base = torch.randn(2, 3, dtype=D, requires_grad=True)
    scale = torch.randn(3, dtype=D, requires_grad=True)

    def loss(jac: Callable[..., Any]) -> torch.Tensor:
        captured = scale.exp()  # no leaf

        def func(p: dict[str, torch.Tensor], y: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"a": (p["x"] * captured).sin() @ y, "b": p["x"].sum() * y, "c": scale * 2}

        J = jac(func, argnums=(0, 1))({"x": base * 2}, base[0].cos())
        return J["a"][0]["x"].square().sum() + J["b"][1].cos().sum() + J["a"][1].sum() + J["c"][1].sum()

    assert_same(gradients(loss(OURS[name]), [base, scale]), gradients(loss(torch.func.jacrev), [base, scale]))


def test_an_argument_that_is_not_differentiated_by_gets_its_gradient() -> None:
    x, w = torch.randn(3, dtype=D), torch.randn(3, dtype=D, requires_grad=True)
    J = cj.jacrev(lambda x, w: (x * w).sin())(x, w)
    expected = torch.func.jacrev(lambda x, w: (x * w).sin())(x, w)
    assert_same(gradients(J.sum(), [w]), gradients(expected.sum(), [w]))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian"])
def test_a_jacobian_carries_a_graph_exactly_when_something_requires_grad(name: str) -> None:
    jac = getattr(cj, name)
    x = torch.randn(3, dtype=D)
    assert not jac(lambda x: x.sin().prod())(x).requires_grad
    assert jac(lambda x: x.sin().prod())(x.clone().requires_grad_()).requires_grad
    with torch.no_grad():
        assert not jac(lambda x: x.sin().prod())(x.clone().requires_grad_()).requires_grad
    net = network(3, 1)
    assert jac(net)(x).requires_grad
    assert not cj.jacobian(net, x).requires_grad
    assert cj.jacobian(net, x, create_graph=True).requires_grad


@pytest.mark.parametrize("name", OURS)
def test_second_derivatives_of_the_jacobian_are_right(name: str) -> None:
    w = torch.randn(4, 3, dtype=D, requires_grad=True)
    x = torch.randn(3, dtype=D, requires_grad=True)

    def of(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return OURS[name](lambda x: torch.tanh(w @ x), chunk_size=2)(x)

    assert torch.autograd.gradcheck(of, (x, w))
    assert torch.autograd.gradgradcheck(of, (x, w))


def test_the_hessian_can_be_differentiated() -> None:
    x = torch.randn(3, dtype=D, requires_grad=True)

    def loss(hessian: Callable[..., Any]) -> torch.Tensor:
        return hessian(lambda x: (x**4).sum() + x.prod())(x).square().sum()

    assert_same(gradients(loss(partial(cj.hessian)), [x]), gradients(loss(torch.func.hessian), [x]))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("name", OURS)
def test_lower_rungs_can_be_differentiated_too(name: str) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).to(D).train()
    x = torch.randn(5, 3, dtype=D, requires_grad=True)
    sources = [x, *net.parameters()]
    J = torch.autograd.functional.jacobian(net, x, create_graph=True)
    assert_same(gradients(OURS[name](net)(x).square().sum(), sources), gradients(J.square().sum(), sources))
    assert int(net[1].num_batches_tracked) == 1  # by the line that defines J alone


def test_dropout_has_the_same_mask_in_the_backward_pass() -> None:
    net = nn.Sequential(network(4, 16), nn.Dropout(0.5), network(16, 3)).train()
    x = torch.randn(4, dtype=D, requires_grad=True)
    torch.manual_seed(1)
    expected = gradients(torch.func.jacrev(net)(x).square().sum(), [x, *net.parameters()])
    torch.manual_seed(1)
    J = cj.jacrev(net)(x)
    torch.rand(7)
    assert_same(gradients(J.square().sum(), [x, *net.parameters()]), expected)


def test_memory_grows_with_the_chunk_and_not_with_the_graph_of_the_jacobian() -> None:
    net = network(64, 128, 128, 512)
    x = torch.randn(64, dtype=D, requires_grad=True)
    sources = [x, *net.parameters()]
    peaks = {}
    for jac, name in ((cj.jacrev(net, chunk_size=8), "ours"), (torch.func.jacrev(net), "torch.func")):
        with LiveBytes(CPU) as tracker:
            found = gradients(jac(x).square().sum(), sources)
        peaks[name] = tracker.highest_bytes
        if name == "ours":
            ours = found
    assert_same(ours, found)
    result_bytes, grad_bytes = 512 * 64 * 8, sum(t.numel() for t in sources) * 8
    assert peaks["ours"] < peaks["torch.func"] / 3
    # The Jacobian, its cotangent and square, the gradients with those of one chunk, and a chunk's graph.
    chunk_bytes = 8 * 8 * (64 + 128 + 128 + 512) * 8
    assert peaks["ours"] < 4 * result_bytes + 3 * grad_bytes + 2 * chunk_bytes


def test_the_backward_pass_keeps_to_the_budget_in_chunks_of_its_own() -> None:
    net = network(64, 256, 256, 96)
    x = torch.randn(64, dtype=D, requires_grad=True)
    grad_bytes = sum(p.numel() for p in net.parameters()) * 8
    J = cj.jacobian(net, x, create_graph=True, max_memory=3 * 2**20 + 2 * grad_bytes)
    with LiveBytes(CPU) as tracker:
        gradients(J.square().sum(), [x, *net.parameters()])
    assert tracker.highest_bytes <= 3 * 2**20 + 2 * grad_bytes + 2 * J.numel() * 8  # the loss has its own


def test_a_change_before_the_backward_pass_is_noticed() -> None:
    net = network(3, 2)
    J = cj.jacrev(net)(torch.randn(3, dtype=D))
    with torch.no_grad():
        net[0].weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.sum().backward()


def test_a_training_loop_that_swaps_the_import_takes_the_same_steps() -> None:
    """A contractive autoencoder: the penalty is the squared Jacobian of the encoder."""
    histories = []
    for jacrev in (torch.func.jacrev, cj.jacrev):
        net = network(6, 4)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        x = torch.randn(6, dtype=D, generator=torch.Generator().manual_seed(1))
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = jacrev(net)(x).square().sum() - net(x).sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        histories.append(losses)
    assert histories[0] == pytest.approx(histories[1], rel=1e-12)


def test_what_cannot_be_differentiated_is_refused() -> None:
    x = torch.randn(3, dtype=D, requires_grad=True)
    with pytest.raises(cj.ArgumentError, match="create_graph"):
        cj.jacobian(torch.sin, x, create_graph=True, mode="finite-difference")
    with pytest.raises(cj.ArgumentError, match="create_graph"):
        cj.jacobian(torch.sin, x, create_graph=True, out=torch.empty(3, 3, dtype=D))
    with pytest.raises(cj.FunctionError, match="create_graph"):
        cj.jacobian(lambda x: torch.from_numpy(x.detach().numpy() * 2), x, create_graph=True)


@pytest.mark.parametrize("n_failures", [1, 2, 3])
def test_a_chunk_that_runs_out_of_memory_half_way_is_not_added_twice(n_failures: int) -> None:
    net = network(5, 16, 7)
    x = torch.randn(5, dtype=D, requires_grad=True)
    sources = [x, *net.parameters()]
    expected = gradients(torch.func.jacrev(net)(x).square().sum(), sources)
    J = cj.jacrev(net)(x)
    left = n_failures

    class Scarce(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal left
            if left and func is torch.ops.aten.clone.default and args[0].shape == net[0].bias.shape:
                left -= 1
                raise torch.OutOfMemoryError("simulated")
            return func(*args, **(kwargs or {}))

    with Scarce():
        found = gradients(J.square().sum(), sources)
    assert left < n_failures
    assert_same(found, expected)


def test_a_constant_that_changes_before_the_backward_pass_is_noticed() -> None:
    scale, y = torch.ones(3, dtype=D), torch.randn(3, dtype=D, requires_grad=True)
    J = cj.jacrev(lambda y: scale * y**2)(y)
    scale.mul_(10)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        J.sum().backward()


def test_statistics_that_the_function_updates_itself_may_change() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).to(D).train()
    x = torch.randn(6, 3, dtype=D)
    J = cj.jacrev(net)(x)
    net(x)
    J.square().sum().backward()
    assert net[0].weight.grad is not None


def test_a_backward_pass_that_does_not_fit_is_a_budget_error() -> None:
    net = network(64, 256, 256, 96)
    x = torch.randn(64, dtype=D, requires_grad=True)
    plan = cj.plan(net, x, mode="forward", create_graph=True)
    J = cj.jacobian(net, x, mode="forward", create_graph=True, max_memory=plan.result_bytes + 20000)
    with pytest.raises(cj.BudgetError, match=r"backward pass of the Jacobian does not fit.*more max_memory"):
        J.sum().backward()


def test_only_what_is_asked_for_is_computed() -> None:
    net = network(3, 4)
    x = torch.randn(3, dtype=D, requires_grad=True)
    J = cj.jacrev(net)(x)
    (found,) = torch.autograd.grad(J.square().sum(), [x])
    (expected,) = torch.autograd.grad(torch.func.jacrev(net)(x).square().sum(), [x])
    assert torch.allclose(found, expected)


def test_a_constant_jacobian_needs_no_derivatives() -> None:
    x = torch.randn(3, dtype=D, requires_grad=True)
    assert not cj.hessian(lambda x: x.sum(), mode="auto")(x).any()
    assert not cj.jacobian(lambda x: torch.ones(2, dtype=D), x, create_graph=True).any()


def test_different_randomness_is_not_differentiated_or_checked() -> None:
    x = torch.ones(4, requires_grad=True)
    for option in ({"create_graph": True}, {"verify": 1}):
        with pytest.raises(cj.ArgumentError, match="randomness='different'"):
            cj.jacobian(torch.sin, x, mode="forward", randomness="different", **option)
    assert not cj.jacfwd(nn.functional.dropout, randomness="different")(x).requires_grad


def test_variables_of_a_loop_are_as_they_were() -> None:
    net = network(3, 4)
    x = torch.randn(3, dtype=D)

    def total(jacrev: Callable[..., Any]) -> torch.Tensor:
        return sum(jacrev(lambda x: torch.tanh(net(x) * t))(x).square().sum() for t in (1.0, 2.0, 3.0))  # noqa: B023 - that is it

    assert_same(
        gradients(total(cj.jacrev), [*net.parameters()]), gradients(total(torch.func.jacrev), [*net.parameters()])
    )


def test_a_function_that_is_another_by_then_is_noticed() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh()).to(D).eval()
    x = torch.randn(3, dtype=D)
    J = cj.jacrev(net)(x)
    net.train()
    with pytest.raises(RuntimeError, match="func is not the function that it was"):
        J.square().sum().backward()


@pytest.mark.parametrize("jac", [cj.jacrev, cj.jacfwd])
def test_inputs_and_constants_that_are_overwritten_are_noticed(jac: Callable[..., Any]) -> None:
    net, x, y = network(3, 4), torch.randn(3, dtype=D), torch.randn(4, dtype=D)
    for changed in (x, y):
        J = jac(lambda x, y: net(x) * y)(x, y)
        changed.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            J.sum().backward()


@pytest.mark.parametrize(
    "make", [lambda x, A: torch.nn.functional.layer_norm(A @ x, (4,)), lambda x, A: torch.linalg.solve(A * x.sum(), x)]
)
def test_forward_formulas_that_cannot_be_differentiated_are_not(make: Callable[..., Any]) -> None:
    """torch.func.jacfwd gives wrong gradients for these (torch 2.13)."""
    A = torch.randn(4, 4, dtype=D, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(4, dtype=D)
    A.requires_grad_()
    x = torch.linspace(1, 2, 4, dtype=D, requires_grad=True)
    found = gradients(cj.jacfwd(lambda x: make(x, A))(x).square().sum(), [x, A])
    assert_same(found, gradients(torch.func.jacrev(lambda x: make(x, A))(x).square().sum(), [x, A]))


def test_the_auxiliary_result_keeps_its_graph() -> None:
    net, x = network(3, 4), torch.randn(3, dtype=D, requires_grad=True)

    def total(jacrev: Callable[..., Any]) -> torch.Tensor:
        J, aux = jacrev(lambda x: (net(x), {"y": net(x).sin()}), has_aux=True)(x)
        return J.square().sum() + aux["y"].sum()

    sources = [x, *net.parameters()]
    assert_same(gradients(total(cj.jacrev), sources), gradients(total(torch.func.jacrev), sources))


def test_hooks_of_the_users_run_once() -> None:
    w = torch.randn(3, dtype=D, requires_grad=True)
    x = torch.randn(3, dtype=D)
    middle = w.exp()
    middle.retain_grad()
    n_calls = 0

    def halve(grad: torch.Tensor) -> torch.Tensor:
        nonlocal n_calls
        n_calls += 1
        return grad / 2

    w.register_hook(halve)
    middle.register_hook(halve)
    cj.jacrev(lambda x: (x * middle).sin() * w, chunk_size=1)(x).sum().backward()
    found, n_ours = (w.grad.clone(), middle.grad.clone()), n_calls
    w.grad, n_calls = None, 0
    middle = w.exp()
    middle.retain_grad()
    middle.register_hook(halve)
    torch.func.jacrev(lambda x: (x * middle).sin() * w)(x).sum().backward()
    assert n_ours == n_calls
    assert torch.allclose(found[0], w.grad)
    assert torch.allclose(found[1], middle.grad)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_autocast_and_fused_attention_are_differentiated_as_they_were() -> None:
    net = network(8, 8).float()
    x = torch.randn(1, 2, 4, 8, requires_grad=True)

    def attend(x: torch.Tensor) -> torch.Tensor:
        q = net(x)
        return nn.functional.scaled_dot_product_attention(q, q, q)

    found = gradients(cj.jacrev(attend)(x).square().sum(), [x, *net.parameters()])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = gradients(torch.func.jacrev(attend)(x).square().sum(), [x, *net.parameters()])
    for ours, theirs in zip(found, expected):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        J, K = cj.jacrev(net)(x[0, 0, 0]), torch.func.jacrev(net)(x[0, 0, 0])
    parameters = [*net.parameters()]
    for ours, theirs in zip(*(gradients(M.square().sum().float(), parameters) for M in (J, K))):
        assert torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2)


# Ways to send several cotangents back at once.
def _batched(J: torch.Tensor, x: torch.Tensor, v: torch.Tensor, **given: bool) -> torch.Tensor:
    return torch.autograd.grad(J, x, v, is_grads_batched=True, retain_graph=True, **given)[0]


def _mapped(J: torch.Tensor, x: torch.Tensor, v: torch.Tensor, **given: bool) -> torch.Tensor:
    return torch.vmap(lambda u: torch.autograd.grad(J, x, u, retain_graph=True, **given)[0])(v)


def _mapped_twice(J: torch.Tensor, x: torch.Tensor, v: torch.Tensor, **given: bool) -> torch.Tensor:
    rows = torch.vmap(torch.vmap(lambda u: torch.autograd.grad(J, x, u, retain_graph=True, **given)[0]))
    return rows(v.unflatten(0, (3, -1))).flatten(0, 1)


@pytest.mark.parametrize("way", [_batched, _mapped, _mapped_twice])
@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian"])
def test_several_cotangents_go_back_at_once(name: str, way: Callable[..., torch.Tensor]) -> None:
    x = torch.linspace(0.1, 1, 3, dtype=D, requires_grad=True)
    func = (lambda x: (x.exp() * x.sum()).sum()) if name == "hessian" else (lambda x: x.exp() * x.sum())
    found, expected = (getattr(library, name)(func)(x) for library in (cj, torch.func))
    v = torch.randn(9, *expected.shape, dtype=D)
    assert torch.allclose(way(found, x, v), way(expected, x, v))
    again = [way(J, x, v, create_graph=True).square().sum() for J in (found, expected)]
    assert torch.allclose(*(torch.autograd.grad(loss, x)[0] for loss in again))


def test_several_cotangents_reach_all_that_takes_part_and_compute_a_block_once() -> None:
    w, x = (torch.linspace(0.1, 1, 3, dtype=D, requires_grad=True) for _ in range(2))
    n_calls = [0]

    def func(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n_calls[0] += 1
        return (w * x).sin(), x.prod()

    found, expected = (library.jacrev(func)(x) for library in (cj, torch.func))
    vectors = [torch.randn(5, *part.shape, dtype=D) for part in expected]
    n_calls[0] = 0
    ours, theirs = (torch.autograd.grad(J, (w, x), vectors, is_grads_batched=True) for J in (found, expected))
    assert n_calls[0] <= 2
    for mine, yours in zip(ours, theirs):
        assert torch.allclose(mine, yours)


def test_torchs_own_checks_of_gradients_go_through() -> None:
    x = torch.linspace(0.1, 1, 3, dtype=D, requires_grad=True)
    for jacobian in (cj.jacrev, cj.jacfwd):
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(jacobian(lambda x: x.exp() * x.sum()), (x,))
            assert check(jacobian(lambda x: x.exp() * x.sum()), (x,), check_batched_grad=True)
