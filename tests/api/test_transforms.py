"""What torch.func's jacrev, jacfwd and hessian do, ours do: results, arguments, errors, composition."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten

import chunkjac as cj
from chunkjac._memory import LiveBytes

D = torch.float64
PAIRS = {"jacrev": (cj.jacrev, torch.func.jacrev), "jacfwd": (cj.jacfwd, torch.func.jacfwd)}
X, Y = torch.linspace(-1, 2, 6, dtype=D).view(2, 3), torch.linspace(1, 3, 6, dtype=D).view(2, 3)


def equal(found: Any, expected: Any) -> None:
    (leaves, spec), (others, other_spec) = tree_flatten(found), tree_flatten(expected)
    assert spec == other_spec
    for leaf, other in zip(leaves, others):
        assert (leaf.shape, leaf.dtype, leaf.device) == (other.shape, other.dtype, other.device)
        assert torch.allclose(leaf, other, rtol=1e-10, atol=1e-10)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest) -> tuple[Callable[..., Any], Callable[..., Any]]:
    return PAIRS[request.param]


CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "not flat": (torch.sin, (X,), {}),
    "fewer outputs": (lambda x: x[0, 1:].unsqueeze(-1), (X,), {}),
    "second argument": (torch.multiply, (X, Y), {"argnums": 1}),
    "last argument": (torch.multiply, (X, Y), {"argnums": -1}),
    "both arguments": (lambda x, y: (2 * x + y, x * y), (X, Y), {"argnums": (0, 1)}),
    "both, the other way round": (lambda x, y: (2 * x + y, x * y), (X, Y), {"argnums": (1, 0)}),
    "a tuple of one": (torch.multiply, (X, Y), {"argnums": (0,)}),
    "a tuple with negative numbers": (torch.multiply, (X, Y), {"argnums": (-1, 0)}),
    "tree of outputs": (lambda x, y: {"left": x * y, "right": [(x.sum(), {"a": y})]}, (X, Y), {"argnums": (0, 1)}),
    "tree of inputs": (lambda a, b: a["p"][0] * b + a["q"], ({"p": [X], "q": Y}, X), {"argnums": (0, 1)}),
    "0-dim": (lambda x: x.sin(), (torch.tensor(0.3, dtype=D),), {}),
    "one element": (lambda x: x, (torch.ones(1, dtype=D),), {}),
    "0-dim to vector": (lambda x: torch.stack([x, x * x]), (torch.tensor(0.3, dtype=D),), {}),
    "unrelated input": (lambda x, y: x.clone(), (X, Y), {"argnums": (0, 1)}),
    "unrelated output": (lambda x: (Y, x * 2), (X,), {}),
    "no related output": (lambda x: Y, (X,), {}),
    "argument that is no tensor": (lambda x, n: x * n, (X, 3), {}),
    "default argument": (lambda x, n=3.0: x * n, (X,), {}),
    "aux": (lambda x: (x.sin(), x.cos()), (X,), {"has_aux": True}),
    "tree of aux": (lambda x: (x.sin(), {"a": x.cos(), "b": [x.tan()]}), (X,), {"has_aux": True}),
    "writes to another argument": (lambda x, y: y.copy_(x).sin(), (X, Y), {}),
    "two precisions": (lambda x: (x.float(), x.double() * 2), (X,), {}),
    "float32 in, float64 out": (lambda x: x.double().sin(), (X.float(),), {}),
    "no elements in": (lambda x: x.sum(1), (torch.zeros(2, 0, dtype=D),), {}),
    "no elements out": (lambda x: x[:, :0].sin(), (X,), {}),
    "no elements": (lambda x: x.sin(), (torch.zeros(0, 3, dtype=D),), {}),
}


# torch.func.jacfwd gives zeros for negative argnums (torch 2.13).
WRONG_IN_JACFWD = ("last argument", "a tuple with negative numbers")


@pytest.mark.parametrize("name", CALLS)
def test_the_result_is_that_of_torch_func(pair: Any, name: str) -> None:
    func, args, options = CALLS[name]
    ours, theirs = pair

    def fresh() -> list[Any]:
        return [arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args]

    if name in WRONG_IN_JACFWD:
        theirs = torch.func.jacrev
    equal(ours(func, **options)(*fresh()), theirs(func, **options)(*fresh()))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 7, 10, 1000])
@pytest.mark.parametrize("flag", [True, False])
def test_chunks_and_the_private_flag_change_nothing(chunk_size: int, flag: bool) -> None:
    def func(x: torch.Tensor, y: torch.Tensor) -> Any:
        return (x.sin(), x + y), (x + 2, x.sum())

    found = cj.jacrev(func, argnums=(0, 1), chunk_size=chunk_size, _preallocate_and_copy=flag)(X, Y[:1])
    equal(found, torch.func.jacrev(func, argnums=(0, 1))(X, Y[:1]))


NO_OUTPUT = r"(vjp|jvp).+: Expected f to be a function that has non-empty output"
NO_TENSOR = r"(vjp|jvp).+: expected f\(\*primals\) to return only tensors"
NO_AUX = "Expected tensors, got unsupported type"
NO_SIZE = "jac(rev|fwd): `chunk_size` should be greater than 0"
ERRORS: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "empty argnums": (lambda jac: jac(torch.sin, argnums=())(X), RuntimeError, "must be non-empty"),
    "argnums out of range": (lambda jac: jac(torch.sin, argnums=2)(X), RuntimeError, "only 1 positional inputs"),
    "negative out of range": (lambda jac: jac(torch.sin, argnums=-2)(X), RuntimeError, "only 1 positional inputs"),
    "repeated argnums": (lambda jac: jac(torch.mul, argnums=(0, 0))(X, X), RuntimeError, "must be unique"),
    "float argnums": (lambda jac: jac(torch.sin, argnums=0.0)(X), RuntimeError, "must be int or Tuple"),
    "float in argnums": (lambda jac: jac(torch.mul, argnums=(1, 0.0))(X, X), RuntimeError, "must be int"),
    "no output": (lambda jac: jac(lambda x: ())(X), RuntimeError, NO_OUTPUT),
    "None": (lambda jac: jac(lambda x: None)(X), RuntimeError, NO_OUTPUT),
    "number": (lambda jac: jac(lambda x: 1)(X), RuntimeError, NO_TENSOR),
    "text": (lambda jac: jac(lambda x: "a")(X), RuntimeError, NO_TENSOR),
    "number as aux": (lambda jac: jac(lambda x: (x, 1), has_aux=True)(X), RuntimeError, NO_AUX),
    "text in aux": (lambda jac: jac(lambda x: (x, [x, "a"]), has_aux=True)(X), RuntimeError, NO_AUX),
    "no tuple with aux": (lambda jac: jac(lambda x: [x, x], has_aux=True)(X), RuntimeError, "should be a tuple"),
    "complex input": (lambda jac: jac(torch.conj)(X.cfloat()), RuntimeError, "jac(rev|fwd): Expected all inputs"),
    "complex output": (lambda jac: jac(lambda x: x * 1j)(X), RuntimeError, "jac(rev|fwd): Expected all outputs"),
    "chunk_size 0": (lambda jac: jac(torch.sin, chunk_size=0)(X), ValueError, NO_SIZE),
    "chunk_size -2": (lambda jac: jac(torch.sin, chunk_size=-2)(X), ValueError, NO_SIZE),
    "unknown randomness": (lambda jac: cj.jacfwd(torch.sin, randomness="none")(X), ValueError, "randomness must be"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_have_the_types_and_words_of_torch_func(pair: Any, name: str) -> None:
    call, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message) as caught:
        call(pair[0])
    assert isinstance(caught.value, cj.ChunkjacError)


def test_random_numbers_are_refused_in_forward_mode_as_torch_func_does() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5)

    for jacfwd in (cj.jacfwd, torch.func.jacfwd):
        with pytest.raises(RuntimeError, match="randomness"):
            jacfwd(func)(X)


def test_keyword_arguments_go_to_the_function() -> None:
    def func(x: torch.Tensor, *, power: int) -> torch.Tensor:
        return x**power

    expected = torch.func.jacrev(partial(func, power=3))(X)
    for jac in (cj.jacrev, cj.jacfwd):
        equal(jac(func)(X, power=3), expected)
    assert torch.allclose(cj.jacfd(func)(X, power=3), expected, atol=1e-6)
    equal(cj.hessian(lambda x, p: (x**p).sum())(X, p=3), torch.diag(6 * X.view(-1)).view(2, 3, 2, 3))


def cubes(x: torch.Tensor) -> torch.Tensor:
    return (x**3).cumsum(-1)


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("inner", PAIRS)
def test_jacobians_compose_with_transforms(inner: str, chunk_size: int | None) -> None:
    """Inside of another transform, or of one of ours; torch.func on both levels is the measure."""
    ours, theirs = (
        partial(jac, chunk_size=chunk_size) if jac is not torch.func.jacfwd else jac for jac in PAIRS[inner]
    )
    t = torch.ones_like(X)
    for outer in (cj.jacrev, cj.jacfwd, cj.hessian, torch.func.jacrev, torch.func.jacfwd):
        measure = getattr(torch.func, outer.__name__)
        equal(outer(ours(cubes))(X), measure(theirs(cubes))(X))
    equal(vmap(ours(cubes))(X), vmap(theirs(cubes))(X))
    equal(vmap(ours(ours(cubes)))(X), vmap(theirs(theirs(cubes)))(X))
    equal(grad(lambda x: ours(cubes)(x).square().sum())(X), grad(lambda x: theirs(cubes)(x).square().sum())(X))
    equal(vjp(ours(cubes), X)[1](ours(cubes)(X)), vjp(theirs(cubes), X)[1](theirs(cubes)(X)))
    equal(jvp(ours(cubes), (X,), (t,)), jvp(theirs(cubes), (X,), (t,)))


def test_negative_argnums_hold_inside_of_a_transform() -> None:
    expected = vmap(torch.func.jacrev(torch.mul, argnums=-1))(X, Y)
    equal(vmap(cj.jacfwd(torch.mul, argnums=-1))(X, Y), expected)


def test_chunks_inside_of_a_transform_keep_trees_and_aux() -> None:
    def func(x: torch.Tensor, p: dict[str, torch.Tensor]) -> Any:
        return {"y": x.sin() * p["w"], "s": p["b"].sum()}, (x * 2,)

    p = {"w": Y[0], "b": X[0, :2]}
    ours = vmap(lambda x: cj.jacfwd(func, (0, 1), True, chunk_size=2)(x, p))(X)
    equal(ours, vmap(lambda x: torch.func.jacfwd(func, (0, 1), True)(x, p))(X))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd", "hessian"])
def test_a_trace_is_torch_funcs_own(name: str) -> None:
    """Blocks written in place, and values compared, would make it long or impossible."""
    ours, theirs = (make_fx(getattr(module, name)(torch.sin))(X[0]) for module in (cj, torch.func))
    assert len(ours.graph.nodes) == len(theirs.graph.nodes)
    equal(ours(Y[0]), theirs(Y[0]))


def test_captured_tensors_of_an_outer_transform_get_their_gradient() -> None:
    def loss(jac: Any, w: torch.Tensor) -> torch.Tensor:
        return jac(lambda x: (w * x).sin())(X[0]).square().sum()

    equal(grad(partial(loss, cj.jacrev))(Y[0]), grad(partial(loss, torch.func.jacrev))(Y[0]))
    equal(grad(partial(loss, cj.jacfwd))(Y[0]), grad(partial(loss, torch.func.jacrev))(Y[0]))


def test_forward_ad_of_the_old_spelling_goes_through() -> None:
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(X[0], torch.ones(3, dtype=D))
        found = torch.autograd.forward_ad.unpack_dual(cj.jacrev(torch.sin)(dual)).tangent
    assert torch.allclose(found, torch.diag(-X[0].sin()))


@pytest.mark.parametrize("mode", ["forward", "reverse", "auto", "finite-difference"])
def test_hessians_are_those_of_torch_func(mode: str) -> None:
    def func(x: torch.Tensor, y: torch.Tensor) -> Any:
        return {"a": (x.exp() * y).sum(), "b": (x * x).sum()}

    found = cj.hessian(func, (0, 1), mode=mode, chunk_size=4)(X, Y)
    (leaves, spec), (others, other_spec) = tree_flatten(found), tree_flatten(torch.func.hessian(func, (0, 1))(X, Y))
    assert spec == other_spec
    for leaf, other in zip(leaves, others):
        assert leaf.shape == other.shape
        assert torch.allclose(leaf, other, atol=1e-12 if mode != "finite-difference" else 1e-7)


def test_the_hessian_of_parameters_keeps_to_its_chunks_and_budget() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)).double()
    data = torch.linspace(-1, 1, 32, dtype=D).view(8, 4)
    params = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(net, params, (data,)).square().mean()

    equal(cj.hessian(loss)(params), torch.func.hessian(loss)(params))
    with cj.config_context(max_memory="300KiB"):
        equal(cj.hessian(loss)(params), torch.func.hessian(loss)(params))


def test_a_hessian_through_an_old_function_goes_through_plain_graphs() -> None:
    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return 3 * grad * ctx.saved_tensors[0] ** 2

    for mode in ("forward", "reverse"):  # in reverse mode that is no slower way
        with pytest.warns(cj.RungWarning) if mode == "forward" else nullcontext():
            found = cj.hessian(lambda x: Cube.apply(x).sum(), mode=mode)(X[0])
        assert torch.allclose(found, torch.diag(6 * X[0]))


LINALG = {
    "solve": lambda A: torch.linalg.solve(A, torch.ones(3, dtype=D)).square().sum(),
    "logdet": torch.logdet,
    "slogdet": lambda A: torch.linalg.slogdet(A)[1],
    "det": torch.linalg.det,
    "cholesky": lambda A: torch.linalg.cholesky(A @ A.T).sum(),
}


@pytest.mark.parametrize("name", LINALG)
def test_hessians_of_linear_algebra_are_right_in_forward_mode(name: str) -> None:
    """Their backward formulas look whether grad mode is on."""
    B = torch.randn(3, 3, dtype=D, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(3, dtype=D)
    w = torch.ones(3, dtype=D, requires_grad=True)  # captured, as parameters are

    def func(x: torch.Tensor) -> torch.Tensor:
        return LINALG[name](B * x * w)

    x = torch.linspace(1, 2, 3, dtype=D)
    expected = torch.func.hessian(func)(x)
    equal(cj.hessian(func)(x), expected)
    equal(cj.jacfwd(torch.func.grad(func))(x), expected)
    assert not cj.jacobian(torch.func.grad(func), x, mode="forward").requires_grad


@pytest.mark.parametrize("chunk_size", [None, 1])
def test_constants_scaled_by_numbers_do_not_end_the_process(chunk_size: int | None) -> None:
    """mul.Scalar of a zero without memory does, from any Python dispatch mode (torch 2.13)."""
    constant = Y[0]
    for func in (
        lambda x: torch.add(x, constant, alpha=0.5),
        lambda x: torch.addcmul(constant, x, constant, value=0.5),
        lambda x: torch.sub(constant, x, alpha=2),
    ):
        equal(cj.jacfwd(func, chunk_size=chunk_size)(X[0]), torch.func.jacfwd(func)(X[0]))


def test_a_library_may_put_ours_in_the_place_of_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = {
        "of rows": lambda: vmap(torch.func.jacrev(torch.sin))(X),
        "of rows, forward": lambda: vmap(torch.func.jacfwd(torch.sin))(X),
        "hessian": lambda: torch.func.hessian(lambda x: (x**3).sum())(X),
        "one in the other": lambda: torch.func.jacfwd(torch.func.jacrev(lambda x: (x**3).sum()))(X),
        "hessians of rows": lambda: vmap(torch.func.hessian(lambda x: (x**3).sum()))(X),
    }
    expected = {name: job() for name, job in jobs.items()}
    for name in ("jacrev", "jacfwd", "hessian"):
        monkeypatch.setattr(torch.func, name, getattr(cj, name))
    for name, job in jobs.items():
        equal(job(), expected[name])


class OldSine(torch.autograd.Function):
    """A sine in the old form, which torch.func refuses."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad * x.cos()


BUFFER = torch.zeros((), dtype=D)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("mode", ["forward", "reverse", "auto", "finite-difference"])
@pytest.mark.parametrize("func", [OldSine.apply, lambda x: BUFFER.copy_(x).sin().clone(), torch.sin])
def test_a_number_has_a_hessian_by_a_number_on_every_rung(func: Callable[..., Any], mode: str) -> None:
    x = torch.tensor(0.42, dtype=D)
    found = cj.hessian(func, mode=mode)(x)
    assert found.shape == ()
    assert torch.allclose(found, -x.sin(), atol=1e-5)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_outputs_without_elements_keep_their_place_in_a_hessian_by_rows() -> None:
    found = cj.hessian(lambda x: (OldSine.apply(x)[:0], OldSine.apply(x).sum()))(X[0])
    assert found[0].shape == (0, 3, 3)
    assert torch.allclose(found[1], -X[0].sin().diag())


def test_a_number_has_a_jacobian_by_a_number_in_chunks_inside_of_a_transform() -> None:
    equal(vmap(cj.jacfwd(torch.sin, chunk_size=1))(X[0]), X[0].cos())


@pytest.mark.parametrize(("mode", "most"), [("auto", 1), ("forward", 3)])
def test_a_hessian_takes_few_evaluations(mode: str, most: int) -> None:
    """In forward mode one for the outputs, one for all columns, and one for the column that they are compared with."""
    n_calls = [0]

    def func(x: torch.Tensor) -> torch.Tensor:
        n_calls[0] += 1
        return x.sin().prod()

    x = torch.linspace(0.1, 1, 5, dtype=D, requires_grad=True)
    equal(cj.hessian(func, mode=mode)(x).detach(), torch.func.hessian(lambda x: x.sin().prod())(x).detach())
    assert n_calls[0] <= most


def test_without_a_limit_nothing_is_counted_for_a_jacobian_with_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    run = LiveBytes.run

    def counted(self: LiveBytes, func: Any, *args: Any) -> Any:
        seen.append(func)
        return run(self, func, *args)

    monkeypatch.setattr(LiveBytes, "run", counted)
    x = torch.ones(40, dtype=D, requires_grad=True)
    cj.jacfwd(lambda x: x.sin())(x)
    assert torch.ops.aten.sin.default in seen  # in the first evaluation
    assert torch.ops.aten.cos.default not in seen  # of the block
