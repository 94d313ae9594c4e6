"""Plans and reports: nothing is computed before, everything is told after."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

import chunkjac as cj
from chunkjac._units import format_bytes
from tests.zoo import NAMES, Stateless, example

MODES = ("reverse", "forward", "finite-difference", "auto")


class NoArithmetic(TorchDispatchMode):
    """Refuse every operation on real numbers; counting shapes is fine."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not isinstance(made, FakeTensor) and made.device.type != "meta":
            is_view = any(result.alias_info is not None for result in func._schema.returns)
            assert is_view, f"{func} computed {tuple(made.shape)}"
        return made


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_planning_computes_nothing(name: str, mode: str) -> None:
    case = example(name)
    with NoArithmetic():
        planned = cj.plan(case.func, *case.args, argnums=case.argnums, mode=mode)
    assert planned.mode == mode or mode == "auto"


def test_the_guard_against_computing_sees_what_is_computed() -> None:
    case = example("mlp")
    with NoArithmetic(), pytest.raises(AssertionError, match="computed"):
        cj.jacobian(case.func, *case.args)


@pytest.mark.filterwarnings("ignore:func has kept fake tensors")
@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_planning_hands_only_fake_tensors_to_the_function(mode: str) -> None:
    seen = []

    def func(x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        seen.append(x)
        return y

    cj.plan(func, torch.zeros(20), mode=mode)
    innermost = [torch.func.debug_unwrap(x) if hasattr(torch.func, "debug_unwrap") else x for x in seen]
    assert innermost
    assert all("FakeTensor" in repr(type(x)) or "FakeTensor" in repr(x) for x in innermost)


def test_a_function_that_reads_values_is_planned_by_real_probes() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sin() if x.detach().sum() > 0 else x.cos()

    x = torch.linspace(0, 1, 40, dtype=torch.float64)
    planned = cj.plan(func, x, mode="reverse")
    found, report = planned.run(return_report=True)
    assert torch.equal(found.diagonal(), x.cos())
    assert planned.predicted_peak_bytes == pytest.approx(report.peak_bytes, rel=0.10)


@pytest.mark.usefixtures("nodes_are_known")  # where they are not, a direction more is compared, with a weight for each
def test_the_numbers_of_a_plan_by_hand() -> None:
    """A matrix of 20 x 50 in float64, 5 rows at a time: seeds 5 x 20, products 5 x 50, result 20 x 50."""
    A = torch.ones(20, 50, dtype=torch.float64)
    planned = cj.plan(lambda x: A @ x, torch.zeros(50, dtype=torch.float64), mode="reverse", chunk_size=5)
    assert (planned.n_outputs, planned.n_inputs, planned.n_directions) == (20, 50, 20)
    assert (planned.chunk_size, planned.n_chunks) == (5, 4)
    assert planned.result_bytes == 20 * 50 * 8
    assert planned.direction_bytes == (20 + 50) * 8
    assert planned.predicted_peak_bytes >= planned.result_bytes + 5 * planned.direction_bytes


def test_a_plan_has_even_chunks_that_fit() -> None:
    func = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 300))
    planned = cj.plan(func, torch.zeros(64), mode="reverse", max_memory="500KiB")
    assert planned.predicted_peak_bytes <= planned.budget_bytes == 500 * 1024
    assert planned.n_chunks * planned.chunk_size - planned.n_directions < planned.n_chunks
    _, report = planned.run(return_report=True)
    assert report.chunk_sizes == (planned.chunk_size,) * (planned.n_chunks - 1) + (
        planned.n_directions - planned.chunk_size * (planned.n_chunks - 1),
    )


def test_plan_and_report_print_and_turn_into_json() -> None:
    case = example("cnn")
    planned = cj.plan(case.func, *case.args, mode="reverse", max_memory="1MiB")
    _, report = planned.run(return_report=True)
    for text in ("reverse", "vmap(vjp)", "27 x 98", "1 MiB, max_memory='1MiB'", "mode='reverse' was given"):
        assert text in str(planned)
    assert "measured peak" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["plan"]["mode"] == "reverse"
    assert "_runner" not in planned.to_dict()


def test_reasons_name_the_counts_and_what_cannot_be_differentiated() -> None:
    class NoForward(Stateless):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def vjp(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return grad * 2

        backward = vjp
        generate_vmap_rule = True

    _, report = cj.jacobian(lambda x: NoForward.apply(x).repeat(10), torch.ones(50), return_report=True)
    assert report.plan.mode == "reverse"
    assert any("500 rows" in reason and "50 columns" in reason for reason in report.plan.reasons)
    assert any(reason.startswith("forward cannot differentiate func") for reason in report.plan.reasons)


def test_finite_differences_are_taken_only_where_autograd_cannot() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(x.numpy() ** 2)

    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    found, report = cj.jacobian(func, x, return_report=True)
    assert report.plan.mode == "finite-difference"
    assert report.plan.rung == "native batch"
    assert (found - torch.diag(2 * x)).abs().max() < 1e-8
    assert any("reverse" in reason for reason in report.plan.reasons)
    assert any("forward" in reason for reason in report.plan.reasons)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.zeros(4),), r"argument 0: planned \(3,\)"),
        ((torch.zeros(3, dtype=torch.float64),), "torch.float64"),
        ((torch.zeros(3), torch.zeros(3)), "1 arguments"),
        (([torch.zeros(3)],), "structure"),
    ],
)
def test_a_plan_refuses_other_shapes_and_lists_the_differences(args: Any, message: str) -> None:
    planned = cj.plan(torch.sin, torch.zeros(3))
    with pytest.raises(cj.ArgumentError, match=message):
        planned.run(*args)


def test_a_plan_refuses_options_that_it_was_made_for() -> None:
    with pytest.raises(cj.ArgumentTypeError, match="chunk_size"):
        cj.plan(torch.sin, torch.zeros(3)).run(chunk_size=2)


def test_auto_leaves_a_mode_whose_blocks_fail_while_it_is_timed() -> None:
    """The forward pass works; only the backward pass shows that reverse mode cannot."""

    class NoBackward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x**2

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError("no backward")

        @staticmethod
        def jvp(ctx: Any, tangent: torch.Tensor) -> torch.Tensor:
            return 2 * ctx.saved_tensors[0] * tangent

    for n_more in (0, 100):  # as many rows as columns, and many more columns
        x = torch.linspace(0, 1, 10 + n_more, dtype=torch.float64)
        found, report = cj.jacobian(lambda x: NoBackward.apply(x)[:10], x, return_report=True)
        assert torch.equal(found, 2 * torch.diag(x)[:10])
        assert report.plan.mode == "forward"
        assert any("no backward" in reason for reason in report.plan.reasons)


class Caching(torch.nn.Module):
    """Make a mask at the first call and keep it, as rotary embeddings and causal masks do."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mask is None:
            self.mask = torch.tril(torch.ones(4, 4, dtype=x.dtype))
        return self.mask @ x


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_planning_leaves_no_fake_tensor_in_a_module_that_caches(mode: str) -> None:
    for wrap in (lambda module: module, lambda module: lambda x: module(x), lambda module: module.forward):
        module = Caching()
        planned = cj.plan(wrap(module), torch.ones(4, dtype=torch.float64), mode=mode)
        assert module.mask is None
        assert torch.allclose(planned.run(), torch.ones(4, 4, dtype=torch.float64).tril(), atol=1e-8)


def test_a_cache_that_cannot_be_found_is_warned_of_and_never_gives_a_wrong_number() -> None:
    cache: list[torch.Tensor] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        if not cache:
            cache.append(torch.ones(4))
        return cache[0] * x

    with pytest.warns(UserWarning, match="kept fake tensors"):
        planned = cj.plan(func, torch.ones(4), mode="reverse")
    with pytest.raises(cj.FunctionError, match="fake"):
        planned.run()
    cache.clear()
    assert torch.equal(planned.run(), torch.eye(4))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_cached_fake_is_refused_where_points_are_evaluated_one_by_one() -> None:
    """Outputs are copied into a buffer there, and copying a fake would leave the buffer as it was."""
    cache: list[torch.Tensor] = []
    net = torch.nn.GRU(3, 4).double()

    def func(x: torch.Tensor) -> torch.Tensor:
        if not cache:
            cache.append(torch.ones(4, dtype=x.dtype))
        return net(x)[0][-1] * cache[0]

    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 1, 3)
    with pytest.warns(UserWarning, match="kept fake tensors"):
        planned = cj.plan(func, x, mode="finite-difference")
    assert planned.rung == "loop"
    with pytest.raises(cj.FunctionError, match="fake"):
        planned.run()
    cache.clear()
    expected = cj.jacobian(func, x, mode="reverse")
    assert (planned.run() - expected).abs().max() < 1e-8


def test_planning_does_not_take_what_fakes_cannot_do_for_what_a_mode_cannot() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.repeat(5) * (2.0 if x.detach().sum() > 0 else 3.0)

    x = torch.ones(200)
    assert cj.plan(func, x).mode == cj.jacobian(func, x, return_report=True)[1].plan.mode == "forward"


def test_what_no_gradient_flows_through_is_differentiated_by_differences() -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    found, report = cj.jacobian(lambda x: x.detach() ** 2, x, return_report=True)
    assert report.plan.mode == "finite-difference"
    assert report.plan.reasons == ("no gradient flows from the inputs to the outputs",)
    assert torch.allclose(found, torch.diag(2 * x), atol=1e-8)


STAIRS = {
    "int": lambda x: (1000 * x).int().to(x.dtype),
    "bucketize": lambda x: torch.bucketize(x, torch.linspace(-3, 3, 1001, dtype=x.dtype)).to(x.dtype),
    "ranks": lambda x: (x * 1e-4).round(decimals=6).argsort().argsort().to(x.dtype),
    "comparison": lambda x: (x > x.flip(0)).to(x.dtype),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("func", STAIRS.values(), ids=STAIRS)
def test_stairs_have_no_slope_where_no_gradient_flows(func: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(100, dtype=dtype)
    found = cj.jacobian(func, x)
    assert torch.equal(found, torch.zeros(100, 100, dtype=dtype))


@pytest.mark.parametrize("mode", MODES)
def test_a_call_within_inference_mode_works(mode: str) -> None:
    with torch.inference_mode():
        x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        found = cj.jacobian(lambda x: x**2, x, mode=mode)
        assert torch.is_inference_mode_enabled()
    assert torch.allclose(found, torch.diag(torch.tensor([2.0, 4.0], dtype=torch.float64)), atol=1e-8)


def test_a_plan_refuses_other_arguments_of_other_shapes_too() -> None:
    """What is not differentiated costs memory as well."""
    planned = cj.plan(lambda x, w: w @ x, torch.ones(3), torch.ones(2, 3))
    with pytest.raises(cj.ArgumentError, match=r"argument 1: planned \(2, 3\).*found \(2000, 3\)"):
        planned.run(torch.ones(3), torch.ones(2000, 3))


def test_a_plan_with_a_step_computes_nothing() -> None:
    x, step = torch.zeros(5), torch.full((5,), 0.1)
    with NoArithmetic():
        cj.plan(torch.sin, x, mode="finite-difference", step=step)


def test_a_plan_that_nothing_fits_is_refused_and_says_what_would_do() -> None:
    """Finite differences are the last resort: after them there is nothing to try."""
    x = torch.zeros(50, dtype=torch.float64)
    for call in (cj.plan, cj.jacobian):
        with pytest.raises(cj.BudgetError) as caught:
            call(lambda x: x.detach() ** 2, x, max_memory=20)
        assert caught.value.needed_bytes is not None
        call(lambda x: x.detach() ** 2, x, max_memory=caught.value.needed_bytes)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_plan_of_differences_goes_down_to_the_rung_that_fits() -> None:
    """A gather takes rows of a native batch for nodes: on fake tensors that runs, and holds far too much."""
    source, target = torch.arange(2000) % 20, torch.arange(2000) % 19

    def messages(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x).index_add(0, target, x[source])

    x, budget = torch.zeros(20, 8, dtype=torch.float64), 10**6
    plan = cj.plan(messages, x, mode="finite-difference", max_memory=budget)
    assert plan.predicted_peak_bytes <= budget
    counts = torch.zeros(20, 20, dtype=torch.float64).index_put((target, source), x.new_ones(()), accumulate=True)
    wanted = torch.einsum("ij,ab->iajb", counts, torch.eye(8, dtype=torch.float64))
    assert torch.allclose(plan.run(), wanted)
    for budget in (400_000, 500_000):  # a batch of one direction does not fit, a point does
        assert cj.plan(messages, x, mode="finite-difference", max_memory=budget).predicted_peak_bytes <= budget
        found, report = cj.jacobian(messages, x, mode="finite-difference", max_memory=budget, return_report=True)
        assert report.peak_bytes <= budget
        assert torch.allclose(found, wanted)


def test_a_plan_counts_the_result_where_it_is_run() -> None:
    x, out = torch.zeros(50), torch.empty(50, 50)
    without = cj.plan(torch.sin, x, mode="reverse").run(out=out, return_report=True)[1]
    assert without.peak_bytes == without.plan.predicted_peak_bytes
    within = cj.plan(torch.sin, x, mode="reverse", out=out).run(out=None, return_report=True)[1]
    assert within.peak_bytes == within.plan.predicted_peak_bytes == without.peak_bytes + out.nbytes


def test_where_a_budget_came_from_is_told() -> None:
    with cj.config_context(max_memory="1MiB"):
        assert cj.plan(torch.sin, torch.zeros(3)).budget_source == "the setting max_memory='1MiB'"
        assert cj.plan(torch.sin, torch.zeros(3), max_memory="2MiB").budget_source == "max_memory='2MiB'"
    assert "50% of" in cj.plan(torch.sin, torch.zeros(3)).budget_source
    assert "available" in cj.plan(torch.sin, torch.zeros(3), max_memory="10%").budget_source


def test_modules_are_found_behind_methods_closures_and_partials() -> None:
    from functools import partial

    from chunkjac._problem.modules import modules_of

    class Holder:
        def __init__(self) -> None:
            self.net = Caching()

        def apply(self, scale: float, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * scale

    holder = Holder()
    for func in (holder.apply, partial(holder.apply, 2.0), holder.net.forward, lambda x: holder.net(x)):
        assert modules_of(func, ()) == [holder.net]

    def unfilled(x: torch.Tensor) -> torch.Tensor:
        return later(x)

    assert modules_of(unfilled, ()) == []
    later = Caching()
    assert modules_of(unfilled, ()) == [later]


def test_a_plan_for_a_device_that_is_not_here() -> None:
    case = example("u_net")
    here = cj.plan(case.func, *case.args, mode="reverse", max_memory="64MiB")
    there = cj.plan(case.func, *case.args, mode="reverse", max_memory="64MiB", device="cuda")
    assert there.device == "cuda:0"
    assert (there.n_outputs, there.n_inputs, there.result_bytes) == (here.n_outputs, here.n_inputs, here.result_bytes)
    assert here.direction_bytes <= there.direction_bytes <= here.direction_bytes + 512  # in blocks of 512 bytes
    assert there.predicted_peak_bytes <= 64 * 2**20
    assert any("cuda:0" in reason for reason in there.reasons)
    with pytest.raises(cj.BudgetError, match=r"reverse in chunks of 1 needs"):
        cj.plan(case.func, *case.args, mode="reverse", max_memory="1KiB", device="cuda")


def test_a_plan_for_another_device_takes_its_arguments_there() -> None:
    net = torch.nn.Linear(3, 2)
    there = cj.plan(net, torch.zeros(3), max_memory="1MiB", device="cuda")
    with pytest.raises(cj.ArgumentError, match="this plan is for cuda:0: give run the arguments there"):
        there.run()
    with pytest.raises(cj.ArgumentError, match=r"planned \(3,\) torch.float32 on cuda:0, found .* on cpu"):
        there.run(torch.zeros(3))
    assert cj.plan(net, torch.zeros(3), device="cpu").run().shape == (2, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:7"}, "max_memory must be given in bytes for cuda:7, which is not here"),
        ({"device": "cuda:7", "max_memory": "50%"}, "max_memory must be given in bytes for cuda:7"),
        ({"device": "potato"}, "device must be one such as 'cpu' or 'cuda', found 'potato'"),
        ({"device": "meta"}, "device must be of type cpu, cuda, xpu, mps"),
        ({"device": 2.5}, "device must be one such as"),
    ],
)
def test_a_device_that_cannot_be_planned_for_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(cj.ArgumentError, match=message):
        cj.plan(torch.sin, torch.zeros(3), **options)


def test_a_function_that_reads_values_is_planned_for_another_device_by_real_probes() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum().item() > 0 else x * 3

    plan = cj.plan(func, torch.ones(50), mode="reverse", device="cuda", max_memory="1MiB")
    assert (plan.device, plan.n_directions) == ("cuda:0", 50)


def test_the_parts_of_a_plan_add_up_to_its_peak() -> None:
    case = example("cnn")
    for mode in ("reverse", "forward", "finite-difference"):
        plan = cj.plan(case.func, *case.args, mode=mode, chunk_size=5)
        chunk_bytes = plan.fixed_bytes - plan.kept_bytes + 5 * plan.direction_bytes
        assert plan.allocated_bytes + plan.kept_bytes + chunk_bytes == pytest.approx(
            plan.predicted_peak_bytes, rel=0.02
        )
        n_seeds = {"reverse": 5 * plan.n_outputs, "forward": 5 * plan.n_inputs, "finite-difference": 10 * plan.n_inputs}
        assert plan.seed_bytes == 8 * n_seeds[mode] <= chunk_bytes
        assert f"S seeds {format_bytes(plan.seed_bytes)}" in str(plan)
    out = torch.empty(plan.n_outputs, *case.args[0].shape, dtype=torch.float64)
    assert cj.plan(case.func, *case.args, out=out).allocated_bytes == 0


def test_a_peak_in_the_prologue_is_named() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x * torch.ones(1000).sum()

    assert "3.91 KiB: that is the peak" in str(cj.plan(func, torch.zeros(3), mode="reverse"))
    assert "that is the peak" not in str(cj.plan(torch.sin, torch.zeros(3), mode="reverse"))


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_auto_plans_a_mode_that_can_make_blocks() -> None:
    """The backward pass reads values, which neither fakes nor batches have."""

    class InNumPy(Stateless):
        @staticmethod
        def forward(x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(grad.numpy() * 2)

    x = torch.zeros(5, dtype=torch.float64)
    plan = cj.plan(InNumPy.apply, x)
    assert plan.mode == cj.jacobian(InNumPy.apply, x, return_report=True)[1].plan.mode == "reverse"
    assert plan.rung == "autograd.grad, row by row"
    assert torch.allclose(plan.run(), 2 * torch.eye(5, dtype=torch.float64))


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")  # values are read, so nothing is batched
def test_lists_of_parts_do_not_end_the_process(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x * len((2 * x)[1:].tolist()) + torch.func.grad(lambda y: y[1:].sum() * y[1:].tolist()[0])(x)

    x = torch.linspace(1, 2, 3, dtype=torch.float64)
    expected = torch.func.jacrev(func)(x)  # numbers that are read are constants
    found = cj.plan(func, x, mode=mode).run(x)
    if mode == "finite-difference":
        expected[1:, 1] += 1
    torch.testing.assert_close(found, expected)
