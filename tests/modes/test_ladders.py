"""Functions that the fastest way cannot run, or would get wrong: each falls to a way that can."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import chunkjac as cj
from chunkjac._modes.derivatives.double_backward import DoubleBackward
from chunkjac._problem.problem import Problem
from tests.hard import HARD, PAGE, OldSine, page, true_jacobian
from tests.zoo import CustomSine

# Warnings are errors in the tests; this one would be a reason to fall.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("name", HARD)
def test_a_hard_function_has_the_jacobian_that_plain_autograd_tells_row_by_row(name: str, mode: str) -> None:
    hard = HARD[name]
    options = dict(hard.options)
    rung = hard.rungs[mode == "forward"]
    if rung is None:
        with pytest.raises((RuntimeError, NotImplementedError)) as caught:
            cj.jacobian(hard.func, hard.x, mode=mode, **options)
        assert any("cannot run func" in note for note in caught.value.__notes__)
        return
    expected = true_jacobian(hard)
    found, report = cj.jacobian(hard.func, hard.x, mode=mode, return_report=True, **options)
    assert report.plan.rung == rung
    assert torch.allclose(found, expected, rtol=0, atol=hard.tolerance)
    found = cj.jacobian(hard.func, hard.x, mode=mode, chunk_size=1, **options)
    assert torch.allclose(found, expected, rtol=0, atol=hard.tolerance)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("name", HARD)
def test_auto_finds_a_way_for_every_hard_function(name: str) -> None:
    hard = HARD[name]
    expected = true_jacobian(hard)
    assert torch.allclose(cj.jacobian(hard.func, hard.x, **dict(hard.options)), expected, rtol=0, atol=hard.tolerance)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("name", HARD)
def test_differences_find_what_derivatives_find(name: str) -> None:
    hard = HARD[name]
    expected = true_jacobian(hard)
    found = cj.jacobian(hard.func, hard.x, mode="finite-difference", **dict(hard.options))
    coarse = max(100 * hard.tolerance, 10 * torch.finfo(hard.x.dtype).eps ** (2 / 3))
    assert torch.allclose(found, expected, rtol=0, atol=coarse * float(expected.abs().max()))


def test_the_page_says_what_they_do() -> None:
    assert PAGE.read_text() == page()


class OnceDifferentiable(OldSine):
    backward = staticmethod(torch.autograd.function.once_differentiable(OldSine.backward))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("extra", [0.0, 1.0])
def test_a_backward_pass_that_cannot_be_differentiated_is_no_zero(extra: float) -> None:
    """Autograd takes the derivative of what it does not see for zero, and does not tell."""
    x = torch.linspace(0.1, 0.3, 3, dtype=torch.float64)

    def func(x: torch.Tensor) -> torch.Tensor:
        return OnceDifferentiable.apply(x.repeat(2000)) + extra * x.repeat(2000) ** 2

    with pytest.raises(RuntimeError) as caught:
        cj.jacfwd(func)(x)
    assert any("has no derivative (once_differentiable" in note for note in caught.value.__notes__)
    found, report = cj.jacobian(func, x, return_report=True)
    assert report.plan.mode == "reverse"
    assert torch.allclose(found, torch.diag(x.cos() + 2 * extra * x).repeat(2000, 1))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_wrong_formula_of_a_backward_pass_is_not_differentiated() -> None:
    """The backward pass of as_strided_scatter is wrong (torch 2.13); its forward derivative is right."""
    x = torch.arange(3, dtype=torch.float64)
    found = cj.jacfwd(lambda x: torch.as_strided_scatter(x, torch.ones(2, dtype=x.dtype), (2,), (1,), 0))(x)
    assert torch.equal(found, torch.diag(torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_nor_is_a_hessian_through_it_and_that_of_a_linear_function_is(mode: str) -> None:
    x = torch.linspace(0.1, 0.3, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError):
        cj.hessian(lambda x: OnceDifferentiable.apply(x).sum(), mode=mode)(x)
    weights = OldLinear.apply(torch.ones(3, dtype=torch.float64))
    assert not cj.hessian(lambda x: OldLinear.apply(x) @ weights, mode=mode)(x).any()


class OldLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 2 * grad


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_a_fall_is_said_in_the_reasons_and_once_as_a_warning(mode: str) -> None:
    hard = HARD["autograd.Function of old"]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        _, report = cj.jacobian(hard.func, hard.x, mode=mode, return_report=True)
    (warning,) = seen
    assert warning.category is cj.RungWarning
    assert {"reverse": "batched autograd.grad", "forward": "double backward"}[mode] in str(warning.message)
    assert "setup_context" in str(warning.message)
    assert warning.filename == __file__
    assert sum("cannot run func" in reason for reason in report.plan.reasons) == len(report.plan.reasons) - 1


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_wrong_batching_rule_is_found_out() -> None:
    """torch's rule for the backward pass of cdist is wrong (torch 2.13): torch.func.jacrev gives wrong rows."""
    hard = HARD["cdist"]
    _, report = cj.jacobian(hard.func, hard.x, mode="reverse", return_report=True)
    assert any("gives other values for several directions" in reason for reason in report.plan.reasons)


class _Drifts(torch.autograd.Function):
    """Be one times a factor; the rule for batches is wrong from the second batch on."""

    n_batches = 0

    @staticmethod
    def forward(grad: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return grad * factor

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, grad: torch.Tensor, factor: torch.Tensor) -> Any:
        _Drifts.n_batches += 1
        return grad * factor * (1 if _Drifts.n_batches < 2 else 2), 0


class _SineByDrifts(CustomSine):
    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return _Drifts.apply(grad, ctx.saved_tensors[0].cos())


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_batching_rule_that_is_wrong_in_later_blocks_only_is_found_out() -> None:
    _Drifts.n_batches = 0
    x = torch.linspace(-1, 1, 6, dtype=torch.float64)
    found, report = cj.jacobian(_SineByDrifts.apply, x, mode="reverse", chunk_size=2, return_report=True)
    torch.testing.assert_close(found, x.cos().diag())
    assert any("gives other values for several directions" in reason for reason in report.plan.reasons)


def test_a_rounding_error_is_no_wrong_rule() -> None:
    """What float64 inputs go through may be bfloat16: its rounding must not drop the first rung."""

    def func(x: torch.Tensor) -> torch.Tensor:
        return (x.bfloat16().sin() @ torch.linspace(0, 1, 12 * 20).view(12, 20).bfloat16()).double()

    for mode in ("reverse", "forward"):
        report = cj.jacobian(func, torch.linspace(-1, 1, 12, dtype=torch.float64), mode=mode, return_report=True)[1]
        assert report.plan.rung == {"reverse": "vmap(vjp)", "forward": "vmap(jvp)"}[mode]


def test_what_is_not_finite_is_no_disagreement() -> None:
    found, report = cj.jacobian(torch.sqrt, torch.tensor([0.0, 1.0, -1.0]), mode="reverse", return_report=True)
    assert report.plan.rung == "vmap(vjp)"
    assert found[0, 0] == torch.inf
    assert found[2, 2].isnan()


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_plan_names_the_rung_and_runs_on_it() -> None:
    hard = HARD["autograd.Function of old"]
    plan = cj.plan(hard.func, hard.x, mode="reverse")
    assert plan.rung == "batched autograd.grad"
    assert torch.equal(plan.run(), hard.x.cos().diag())


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_plan_of_a_function_that_leaves_the_first_rung_has_its_program_in_the_second_run() -> None:
    def attend(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])[0]

    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(1, 3, 4)
    plan = cj.plan(attend, x, mode="forward")
    plan.run()
    found, report = plan.run(return_report=True)
    assert report.plan.rung == "linear program"
    assert torch.allclose(found, torch.func.jacrev(attend)(x))


def test_stairs_within_a_difference_are_no_fault_of_double_backward() -> None:
    x = torch.tensor([1.5 - 1e-3, 2.2, -0.7])  # rounded to 2 within the step of float32
    problem = Problem.of(lambda x: x * x.detach().round().unique().numel(), (x,), 0, False)
    rung = DoubleBackward(problem, problem.evaluate()[1])
    assert torch.equal(rung.one((torch.ones(3),))[0], torch.full((3,), 3.0))  # 1, 2 and -1
