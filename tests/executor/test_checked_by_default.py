"""Derivatives that are not known to be right are checked, without being asked; those that are cost nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._modes.known_nodes import known_nodes
from tests.fixtures import torch_faults

D = torch.float64


class Off(torch.autograd.Function):
    """Have a backward pass that is 3 % off, in small outputs only."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sin().sum(), 1e-6 * x.cos().sum()])

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad[0] * x.cos() - 1.03e-6 * grad[1] * x.sin()


POINT = torch.tensor([0.3, 0.7, -1.2], dtype=D)
OFF_BY_HAND = torch.stack([POINT.cos(), -1e-6 * POINT.sin()])


@pytest.mark.parametrize("fault", torch_faults.FAULTS, ids=lambda fault: fault.what)
def test_what_torch_differentiates_wrongly_is_right(fault: torch_faults.Fault) -> None:
    assert torch_faults.outcome(fault, lambda: cj.jacobian(fault.func, fault.x)).startswith("right")


def test_the_page_of_faults_is_as_it_comes_out() -> None:
    if torch.__version__.startswith("2.13."):
        assert torch_faults.PAGE.read_text() == torch_faults.page()


def networks() -> dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]]:
    """Return typical networks and their inputs."""
    torch.manual_seed(0)
    lstm = nn.LSTM(4, 5)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    return {
        "mlp": (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9), nn.Linear(9, 30)), torch.randn(6)),
        "cnn": (
            nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.GELU(), nn.MaxPool2d(2)).eval(),
            torch.randn(1, 1, 8, 8),
        ),
        "transformer": (layer, torch.randn(1, 4, 8)),
        "lstm": (lambda x: lstm(x)[0], torch.randn(3, 4)),
    }


@pytest.mark.parametrize("name", ["mlp", "cnn", "transformer", "lstm"])
@pytest.mark.parametrize("mode", ["auto", "reverse", "forward"])
@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning", "ignore:There is a performance drop")
def test_typical_networks_pay_nothing(name: str, mode: str) -> None:
    func, x = networks()[name]
    if mode == "forward" and name in ("lstm", "transformer"):
        pytest.skip("they run by slower rungs there, which are checked")
    if name == "transformer" and "ScaledDotProductFlashAttentionForCpuBackward0" not in known_nodes(
        "differentiated", "backward"
    ):
        pytest.skip("this torch's kernel of attention is off by rounding where softmax is saturated, so it is checked")
    counts = []
    in_one_chunk = 64  # how many there are goes by the clock
    cj.jacobian(func, x, mode=mode, chunk_size=in_one_chunk)  # the first call of a process may take another way
    for verify in ("auto", 0):
        n_calls = 0

        def counted(x: torch.Tensor) -> torch.Tensor:
            nonlocal n_calls
            n_calls += 1
            return func(x)

        cj.jacobian(counted, x, mode=mode, verify=verify, chunk_size=in_one_chunk)
        counts.append(n_calls)
    assert counts[0] == counts[1]
    assert cj.jacobian(func, x, mode=mode, return_report=True)[1].verified == "verified by the list of operations"


def test_a_wrong_backward_pass_is_left_with_a_warning_that_names_it() -> None:
    with pytest.warns(cj.RungWarning, match="the likely cause is Off"):
        found, report = cj.jacobian(Off.apply, POINT, return_report=True)
    assert torch.allclose(found, OFF_BY_HAND, rtol=1e-5, atol=1e-15)
    assert report.plan.mode == "finite-difference"


def test_a_wrong_backward_pass_in_a_mode_that_was_asked_for_is_an_error_with_a_remedy() -> None:
    with pytest.raises(cj.FunctionError, match="mode='finite-difference' does what they do"):
        cj.jacobian(Off.apply, POINT, mode="reverse")
    off = cj.jacobian(Off.apply, POINT, mode="reverse", verify=0)
    assert torch.allclose(off[0], OFF_BY_HAND[0])


def test_blocks_are_checked_before_the_first_is_handed_out() -> None:
    with pytest.warns(cj.RungWarning, match="Off"):
        blocks = [block.values.clone() for block in cj.blocks(Off.apply, POINT)]
    assert len(blocks) > 0
    with pytest.raises(cj.FunctionError, match="not confirmed"):
        next(iter(cj.blocks(Off.apply, POINT, mode="reverse")))


@pytest.mark.filterwarnings("ignore:func keeps memory")
def test_the_check_keeps_to_a_limit() -> None:
    class Wide(Off):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x.sin()

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * ctx.saved_tensors[0].cos()

    x = torch.linspace(-1, 1, 300, dtype=D)
    reports = [cj.jacobian(Wide.apply, x, max_memory=limit, return_report=True)[1] for limit in ("900KiB", "16MiB")]
    assert all(report.peak_bytes <= report.plan.budget_bytes for report in reports)
    assert reports[1].verified.startswith("verified by finite differences")


def test_auto_means_what_jacrev_does_whatever_the_shapes() -> None:
    def with_hook(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        if y.requires_grad:
            y.register_hook(lambda grad: grad * 10)
        return y * 1

    def with_no_grad(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            w = x.exp()
        return w * x

    x = torch.tensor([0.5], dtype=D)
    for func in (with_hook, with_no_grad, lambda x: x.detach().exp() * x):
        many = cj.jacobian(lambda x: func(x).repeat(7), x)  # noqa: B023
        assert torch.allclose(many, torch.func.jacrev(func)(x).repeat(7, 1))
        limited = cj.jacobian(lambda x: func(x).repeat(7), x, max_memory="1MiB")  # noqa: B023
        assert torch.equal(limited, many)


class Unknown(torch.autograd.Function):
    """Be right, and not known to be."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.detach().sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad * ctx.saved_tensors[0].cos()

    @staticmethod
    def vmap(info: Any, dims: Any, x: torch.Tensor) -> Any:
        return Unknown.apply(x), dims[0]


class Wrong(Unknown):
    """Be wrong by a tenth."""

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return Unknown.backward(ctx, grad) * 1.1

    @staticmethod
    def vmap(info: Any, dims: Any, x: torch.Tensor) -> Any:
        return Wrong.apply(x), dims[0]


class KeptInBoth(Unknown):
    """Have a forward derivative as well."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        Unknown.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def vmap(info: Any, dims: Any, x: torch.Tensor) -> Any:
        return KeptInBoth.apply(x), dims[0]

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
        return tangent * ctx.saved_tensors[0].cos()


def weighed_without_grad(x: torch.Tensor) -> torch.Tensor:
    """Weigh by what is computed under ``no_grad``."""
    with torch.no_grad():
        weight = x.sum()
    return Unknown.apply(x) * weight


def scaled_by_what_is_read(x: torch.Tensor) -> torch.Tensor:
    """Scale by a number that is read."""
    return Unknown.apply(x) / x.abs().max().item()


KEEPING = {
    "item": scaled_by_what_is_read,
    "tolist": lambda x: Unknown.apply(x) * x.tolist()[0],
    "detach": lambda x: Unknown.apply(x) * x.detach(),
    "data": lambda x: Unknown.apply(x) * x.data,
    "no_grad": weighed_without_grad,
}


@pytest.mark.parametrize("mode", ["auto", "reverse"])
@pytest.mark.parametrize("func", KEEPING.values(), ids=KEEPING)
def test_what_a_function_keeps_from_derivatives_is_constant_beside_what_is_not_known(func: Any, mode: str) -> None:
    """It is held where it was, so that differences do not move it."""
    x = torch.tensor([0.3, -1.2, 0.7], dtype=D)
    found, report = cj.jacobian(func, x, mode=mode, return_report=True)
    assert torch.equal(found, torch.func.jacrev(func)(x))
    assert report.plan.mode == "reverse"
    assert report.verified.startswith("verified by finite differences")


@pytest.mark.filterwarnings("ignore:reverse mode runs by")
@pytest.mark.parametrize("func", KEEPING.values(), ids=KEEPING)
def test_what_a_function_keeps_hides_no_wrong_derivative(func: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Unknown, "backward", staticmethod(lambda ctx, grad: 1.1 * grad * ctx.saved_tensors[0].cos()))
    with pytest.raises(cj.FunctionError, match="likely cause is Unknown"):
        cj.jacobian(func, torch.tensor([0.3, -1.2, 0.7], dtype=D), mode="reverse")


def test_tangents_pass_through_what_has_no_gradient() -> None:
    """Forward mode means that, as torch.func.jacfwd does, and is judged by differences that move it."""

    def func(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weight = x.sum()
        return KeptInBoth.apply(x) * weight

    x = torch.tensor([0.3, -1.2, 0.7], dtype=D)
    found, report = cj.jacobian(func, x, mode="forward", return_report=True)
    assert torch.equal(found, torch.func.jacfwd(func)(x))
    assert report.verified.startswith("verified by finite differences")


def test_a_wrong_derivative_is_found_though_it_detaches_within() -> None:
    x = torch.tensor([0.3, -1.2, 0.7], dtype=D)
    with pytest.raises(cj.FunctionError, match="likely cause is Wrong"):
        cj.jacobian(Wrong.apply, x, mode="reverse")
    with pytest.warns(cj.RungWarning, match="has taken finite-difference"):
        found = cj.jacobian(Wrong.apply, x)
    assert torch.allclose(found, torch.diag(x.cos()), atol=1e-8)


def test_not_a_number_is_warned_of_where_the_mode_was_asked_for() -> None:
    def func(a: torch.Tensor) -> torch.Tensor:
        return torch.where(a <= 0, torch.exp(a), 1 + a)

    with pytest.warns(cj.RungWarning, match="NaN.*where"):
        cj.jacobian(func, torch.tensor([1000.0, -1.0], dtype=D), mode="reverse")


def test_a_backward_pass_without_a_derivative_has_no_graph() -> None:
    class Sine(torch_faults.Sine):
        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return torch_faults.Sine.backward(ctx, grad) / 1.03

    x = POINT.clone().requires_grad_()
    with pytest.raises(cj.FunctionError, match="a backward pass in func has no derivative"):
        cj.jacobian(lambda x: Sine.apply(x) + x * x, x, create_graph=True).sum().backward()


def test_kinks_are_no_fault() -> None:
    x = torch.tensor([0.0, 1.0, -1.0], dtype=D)
    for func in (torch.relu, torch.abs, lambda x: torch.linalg.norm(x[:1]), lambda x: x.amax()):
        assert cj.jacobian(func, x, mode="reverse", verify=2, return_report=True)[1].verified_error < 1e-6


class Same(torch.autograd.Function):
    """Return the same, with a derivative that nobody knows to be right: it is off by a factor, if one is given."""

    @staticmethod
    def forward(x: torch.Tensor, factor: float) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.factor, None


def stairs(x: torch.Tensor, width: float, factor: float) -> torch.Tensor:
    """Return what is flat but for the input itself, whose derivative is taken to be a factor."""
    return (x / width).round() * width + Same.apply(x, factor)


@pytest.mark.parametrize("width", [1.0, 1 / 255])
@pytest.mark.parametrize(("dtype", "size"), [(D, 1e2), (D, 1e4), (D, 1e6), (torch.float32, 1.0)])
def test_stairs_are_flat_however_long_a_step_is(width: float, dtype: torch.dtype, size: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, dtype=dtype) * size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        J = cj.jacobian(stairs, x, width, 1.0)
    torch.testing.assert_close(J, torch.eye(8, dtype=dtype))


@pytest.mark.parametrize(("size", "width"), [(1e2, 1.0), (1e4, 1 / 255), (1e6, 1 / 255)])
def test_a_wrong_derivative_beside_stairs_is_found(size: float, width: float) -> None:
    torch.manual_seed(0)
    with pytest.raises(cj.FunctionError, match="not confirmed"):
        cj.jacobian(stairs, torch.randn(8, dtype=D) * size, width, 1.5, mode="reverse")


class InSinglePrecision(torch.autograd.Function):
    """Compute in single precision, past torch; the derivative is off by a factor."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return torch.from_numpy(np.sin(x.detach().numpy().astype(np.float32)).astype(np.float64))

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grad * ctx.saved_tensors[0].cos() * ctx.factor, None


@pytest.mark.filterwarnings("ignore:reverse mode runs by")
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_rounding_that_is_not_seen_is_no_flight_of_stairs(size: float) -> None:
    torch.manual_seed(1)
    x = torch.randn(6, dtype=D) * size
    found, report = cj.jacobian(InSinglePrecision.apply, x, 1.0, mode="reverse", return_report=True)
    torch.testing.assert_close(found, x.cos().diag())
    assert report.verified.startswith("verified by finite differences")
    for factor in (0.0, 1.1):
        with pytest.raises(cj.FunctionError, match="not confirmed"):
            cj.jacobian(InSinglePrecision.apply, x, factor, mode="reverse")


def saw(x: torch.Tensor) -> torch.Tensor:
    """Return what has many kinks."""
    return (1e3 * x - (1e3 * x).round()).abs()


HIDING = {
    "flat outputs": (torch.relu, D),
    "kinks beside the point": (saw, D),
    "a fast oscillation": (lambda x: (1e6 * x).sin(), D),
    "rounding": (lambda x: (3 * x).sin(), torch.float32),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("func", "dtype"), HIDING.values(), ids=HIDING)
def test_what_is_uncertain_hides_nothing(func: Any, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(6, dtype=dtype)
    x[-1] = x[-1].abs()

    def one_wrong(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([func(x[:-1]), Same.apply(func(x[-1:]), 1.5)])

    with pytest.raises(cj.FunctionError, match="not confirmed"):
        cj.jacobian(one_wrong, x, mode="reverse")
    with pytest.raises(cj.FunctionError, match="not confirmed"):
        cj.jacobian(lambda x: Same.apply(func(x), 1.1), x, mode="reverse")
    right = cj.jacobian(lambda x: Same.apply(func(x), 1.0), x, mode="reverse")
    torch.testing.assert_close(right, torch.func.jacrev(func)(x))


def test_a_fast_oscillation_is_no_fault_however_long_a_step_is() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([(1e6 * x).sin(), Same.apply(x, 1.0)])

    torch.manual_seed(0)
    x = torch.randn(6, dtype=D) * 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = cj.jacobian(func, x)
    torch.testing.assert_close(found, torch.func.jacrev(func)(x))


class InBothModes(Same):
    """Be differentiated in forward mode, too."""

    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, _: None) -> torch.Tensor:
        return tangent * ctx.factor


CANCELLING = {
    "softmax": lambda x: InBothModes.apply((100 * x).softmax(0), 1.0),
    "quotient": lambda x: InBothModes.apply(x, 1.0) / x,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("mode", ["auto", "forward"])
@pytest.mark.parametrize("func", CANCELLING.values(), ids=CANCELLING)
def test_modes_do_not_differ_where_both_are_rounding(func: Any, mode: str, seed: int) -> None:
    """Of derivatives that cancel, little but rounding is left, which is another in each mode."""
    torch.manual_seed(seed)
    x = torch.randn(8, dtype=D)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # batches of what is rounding are rounding, too
        found, report = cj.jacobian(func, x, mode=mode, return_report=True)
    torch.testing.assert_close(found, torch.func.jacrev(func)(x))
    assert report.plan.mode == {"auto": "reverse"}.get(mode, mode)


SELECTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "sort": lambda x: x.sort().values,
    "topk": lambda x: x.topk(5).values,
    "median": lambda x: torch.stack([x.median(), x.mean()]),
    "quantile": lambda x: torch.quantile(x, torch.tensor([0.2, 0.5, 0.9], dtype=x.dtype)),
    "spacing": lambda x: x.sort().values.diff(),
}


@pytest.mark.parametrize("name", SELECTIONS)
@pytest.mark.parametrize("numbers", [[1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 3, 3], 12 * [0]])
def test_where_numbers_tie_any_choice_is_right(name: str, numbers: list[float]) -> None:
    x = torch.tensor(numbers, dtype=D)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        J = cj.jacobian(lambda x: SELECTIONS[name](Same.apply(x, 1.0)), x)
    assert torch.equal(J, torch.func.jacrev(SELECTIONS[name])(x))


def test_each_element_is_judged_by_its_own_size() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[0] * 1e-6, (50 * x[1]).sin()])

    x = torch.tensor([1e6, 1e-3], dtype=D)
    assert cj.jacobian(func, x, verify=2, return_report=True)[1].verified_error < 1e-6


def test_an_operator_with_a_kernel_only_is_checked_though_its_memory_is_not_foreseen() -> None:
    library = torch.library.Library("chunkjac_checked", "FRAGMENT")
    if not hasattr(torch.ops.chunkjac_checked, "cube"):
        library.define("cube(Tensor x) -> Tensor")
    library.impl("cube", lambda x: x**3, "CPU")
    x = torch.linspace(0.5, 1.0, 4, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that the operator has no formula
        found, report = cj.jacobian(lambda x: torch.ops.chunkjac_checked.cube(2 * x), x, return_report=True)
    torch.testing.assert_close(found, torch.diag(24 * x**2), rtol=1e-6, atol=1e-6)
    assert report.plan.mode == "finite-difference"


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_what_a_list_loses_is_said_and_given_as_torch_gives_it() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([x[0].cos(), x[1]]) * x[:2]

    x = torch.linspace(0.5, 1.0, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"func makes constants of tensors .*torch\.tensor"):
        found = cj.jacobian(func, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", cj.RungWarning)
        numbers = cj.jacobian(lambda x: x * x.sum().item() * x.tolist()[0], x)
        cj.jacobian(func, x, verify=0)
    assert torch.equal(found, torch.func.jacrev(func)(x))
    assert torch.equal(numbers, torch.eye(4, dtype=x.dtype) * x.sum() * x[0])
