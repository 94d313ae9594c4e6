"""How finite differences give a function several points at once: never a wrong number, whatever the function."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.differences.rows import distance
from chunkjac._modes.differences.rungs import Ladder

# Functions that must go one by one are warned of; one test is about that.
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")

F64 = torch.float64
LIMIT = 1e-6


def point(*shape: int, dtype: torch.dtype = F64) -> torch.Tensor:
    """Return a point that is the same in every run, away from zero."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(4)) + 0.1


def module(net: nn.Module) -> nn.Module:
    """Return a network in double precision with weights that are the same in every run."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return net.double()


def differences(func: Callable[..., Any], x: torch.Tensor, **options: Any) -> tuple[torch.Tensor, cj.Plan]:
    """Return the Jacobian by finite differences, and the plan it went by."""
    found, report = cj.jacobian(func, x, mode="finite-difference", return_report=True, **options)
    return found, report.plan


def close(found: torch.Tensor, expected: torch.Tensor, limit: float = LIMIT) -> None:
    """Compare with a Jacobian."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= limit * max(1.0, float(expected.abs().max()))


# Each mixes the rows of a batch though its shapes fit: 3 rows, the least that are tried, would do for those of 3.
MIXING = {
    "x / max": lambda x: x / x.max(),
    "x / min": lambda x: x / x.min(),
    "x / norm": lambda x: x / x.norm(),
    "softmax over dim 0": lambda x: torch.softmax(x, 0),
    "x - mean over dim 0": lambda x: x - x.mean(0),
    "standardised over dim 0": lambda x: (x - x.mean(0)) / (x.var(0, unbiased=False) + 1).sqrt(),
    "cumulative sum over dim 0": lambda x: x.cumsum(0),
    "reversed over dim 0": lambda x: x.flip(0),
    "rolled over dim 0": lambda x: x.roll(1, 0),
    "sorted over dim 0": lambda x: x.sort(0)[0],
    "times its number": lambda x: x * torch.arange(x.shape[0], dtype=x.dtype).view(-1, *(1,) * (x.dim() - 1)),
    "times how many": lambda x: x * len(x),
    "all by the last": lambda x: x * x.reshape(-1)[-1],
    "all by the first": lambda x: x * x.reshape(-1)[0],
    "only the largest counts": lambda x: torch.where(x >= x.max(), x, 0 * x) + x,
    "quantised by the range": lambda x: x + 1e-3 * (x.max() - x.min()),
}


@pytest.mark.parametrize("n", [1, 3, pytest.param(6, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", MIXING)
def test_rows_that_are_mixed_are_found_out(name: str, n: int) -> None:
    func, x = MIXING[name], point(n)
    found, plan = differences(func, x)
    assert plan.rung == "vmap(f)"
    assert any(reason.startswith("no native batch: ") for reason in plan.reasons)
    close(found, torch.func.jacrev(func)(x), 1e-5)
    with pytest.raises(cj.FunctionError, match=r"batching='native' needs func to .* each on its own"):
        differences(func, x, batching="native")


@pytest.mark.parametrize("n", [3, 5, 7, 9, 11])
def test_a_square_matrix_with_as_many_rows_is_not_taken_for_a_batch(n: int) -> None:
    A, x = point(n, n), point(n)
    found, plan = differences(lambda x: A @ x, x)
    assert plan.rung == "vmap(f)"
    close(found, A)


def test_the_number_of_rows_is_no_size_of_a_captured_tensor_by_chance() -> None:
    """Where it is, values tell: here 3 points fit the matrix as 3 columns would."""
    A, x = point(3, 3), point(1)
    func: Callable[..., torch.Tensor] = lambda x: A @ x.expand(3) if x.dim() == 1 else A @ x.expand(-1, 3)  # noqa: E731
    found, plan = differences(func, x)
    assert plan.rung == "vmap(f)"
    close(found, A.sum(1, keepdim=True))


@pytest.mark.parametrize("batching", ["auto", "native"])
def test_rows_that_are_mixed_only_when_they_are_many_are_found_out_in_the_chunk(batching: str) -> None:
    """A check of a few rows cannot see it: their sum does not reach the limit that many reach."""

    def func(x: torch.Tensor) -> torch.Tensor:
        return x**2 if float(x.sum()) < 110 else x**3  # five points are 100, and a little more or less

    x = torch.full((20,), 1.0, dtype=F64)
    if batching == "native":
        with pytest.raises(cj.FunctionError, match="in a batch for 20 directions"):
            differences(func, x, batching=batching)
        return
    found, plan = differences(func, x)
    assert plan.rung == "loop"
    assert any("in a batch for 20 directions" in reason for reason in plan.reasons)
    close(found, torch.diag(2 * x))
    in_small_chunks, plan = differences(func, x, chunk_size=2)
    assert plan.rung == "native batch"
    close(in_small_chunks, torch.diag(2 * x))


def test_batch_norm_in_train_mode_is_found_out() -> None:
    net, x = module(nn.BatchNorm1d(4)).train(), point(6, 4)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.batch_norm(x, None, None, net.weight, net.bias, training=True)

    found, plan = differences(net, x)
    assert plan.rung == "loop"
    close(found, torch.func.jacrev(plain)(x).detach())
    # A row of six features looks like a batch of one to it: statistics are then over the rows of the batch.
    flat = module(nn.BatchNorm1d(6)).train()
    with pytest.raises(cj.FunctionError):
        differences(lambda x: flat(x.reshape(-1, 6)).reshape(x.shape), point(2, 6), batching="native")


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.sin(),
        lambda x: x,
        lambda x: x.reshape(*x.shape[:-1], 2, 2),
        lambda x: torch.softmax(x, -1),
        lambda x: (x.sum(-1), [x.cumsum(-1)]),
        lambda x: torch.as_tensor(np.sin(x.numpy())),
        lambda x: x * 2 if x[..., 0].mean().item() > 100 else x * 3,
    ],
)
@pytest.mark.parametrize("n_chunk", [None, 1, 3])
def test_independent_rows_go_as_a_native_batch(func: Any, n_chunk: int | None) -> None:
    x = point(4)
    found, plan = differences(func, x, chunk_size=n_chunk)
    assert plan.rung == "native batch"
    looped, plan = differences(func, x, batching="loop")
    assert plan.rung == "loop"
    for one, another in zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(looped)):
        close(one, another)


@pytest.mark.parametrize(("n", "scale"), [(1, 1.0), (4, 1e-6), (40, 1e6)])
def test_rounding_that_goes_by_the_size_of_a_batch_is_no_mixing(n: int, scale: float) -> None:
    """Kernels for one point and for several round differently (2e-7 in float32)."""
    net = nn.Sequential(nn.Linear(n, 64), nn.Tanh(), nn.Linear(64, 5))
    func: Callable[..., torch.Tensor] = lambda x: net(x) * scale  # noqa: E731
    found, plan = differences(func, point(n, dtype=torch.float32))
    assert plan.rung == "native batch"
    assert found.shape == (5, n)


def reads_a_value(x: torch.Tensor) -> torch.Tensor:
    return x**2 if float(x[0]) > -100 else x


def writes_in_place(x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros(4, dtype=x.dtype)
    y[0] = x[1] ** 2
    y[1:] = x[1:].sin()
    return y


def solves_by_numpy(x: torch.Tensor) -> torch.Tensor:
    matrix = np.eye(4) * 3 + np.arange(16).reshape(4, 4) / 16
    return torch.from_numpy(np.linalg.solve(matrix, np.exp(x.numpy()).reshape(4)))


def through_the_same_memory(x: torch.Tensor, buffer: Any = np.zeros(4)) -> torch.Tensor:  # noqa: B008
    buffer[:] = np.exp(x.numpy().reshape(4))
    return torch.from_numpy(buffer)


def as_text(x: torch.Tensor) -> torch.Tensor:
    """Stand for a program that is given numbers as text."""
    numbers = [float(word) for word in " ".join(map(repr, x.reshape(4).tolist())).split()]
    return torch.tensor([number**3 for number in numbers], dtype=F64)


BY_HAND: dict[str, tuple[Callable[..., torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "a value is read": (reads_a_value, lambda x: torch.diag(2 * x)),
    "in place": (
        writes_in_place,
        lambda x: torch.diag(torch.cat([x[:1] * 0, x[1:].cos()])).index_put(
            (torch.tensor(0), torch.tensor(1)), 2 * x[1]
        ),
    ),
    "NumPy": (
        solves_by_numpy,
        lambda x: torch.linalg.inv(torch.eye(4, dtype=F64) * 3 + torch.arange(16).view(4, 4) / 16) * x.exp(),
    ),
    "the same memory": (through_the_same_memory, lambda x: torch.diag(x.exp())),
    "an external program": (as_text, lambda x: torch.diag(3 * x**2)),
}


@pytest.mark.parametrize("scheme", ["forward", "richardson"])
@pytest.mark.parametrize("name", BY_HAND)
def test_what_takes_one_point_only_goes_one_by_one(name: str, scheme: str) -> None:
    func, jacobian = BY_HAND[name]
    x = point(4)
    found, plan = differences(func, x, scheme=scheme)
    assert plan.rung == "loop"
    assert [reason for reason in plan.reasons if reason.startswith("one point at a time, since vmap cannot")]
    close(found, jacobian(x), 1e-6 if scheme == "forward" else 1e-8)
    chunked, _ = differences(func, x, scheme=scheme, chunk_size=3)
    assert torch.equal(chunked, found)


def test_going_one_by_one_is_warned_of_unless_it_was_asked_for() -> None:
    x = point(4)
    with pytest.warns(cj.RungWarning, match="runs by loop, which is slower: no native batch: .*vmap cannot batch func"):
        differences(reads_a_value, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        differences(reads_a_value, x, batching="loop")
        differences(lambda x: x.cumsum(0), x)  # vmap is no slower


def test_recurrent_layers_work() -> None:
    first, second = module(nn.LSTM(3, 4, batch_first=True)), module(nn.LSTM(3, 4))
    gru = module(nn.GRU(3, 4))
    x = point(5, 3)
    expected = {net: cj.jacobian(lambda x: net(x)[0], x, mode="reverse") for net in (first, second, gru)}  # noqa: B023
    for net, options, rung in (
        (first, {}, "native batch"),
        (first, {"batching": "loop"}, "loop"),
        (second, {}, "loop"),  # its leading dimension is time: rows go into one another
        (second, {"batching": 1}, "native batch, dimension 1"),
        (gru, {"batching": 1}, "native batch, dimension 1"),
        (gru, {}, "loop"),
    ):
        found, plan = differences(lambda x: net(x)[0], x, **options)  # noqa: B023
        assert plan.rung == rung
        close(found, expected[net])
    with pytest.raises(cj.FunctionError, match=r"dimension 0"):
        differences(lambda x: second(x)[0], x, batching="native")


def test_a_dimension_that_outputs_do_not_have_is_refused() -> None:
    with pytest.raises(cj.FunctionError, match=r"batching=5 needs func to take several points along dimension 5"):
        differences(torch.sin, point(3), batching=5)


def test_the_last_dimension_may_be_that_of_the_batch() -> None:
    A, x = point(5, 3), point(3)
    found, plan = differences(lambda x: torch.tanh(A @ x), x, batching=-1)
    assert plan.rung == "native batch, dimension -1"
    close(found, torch.func.jacrev(lambda x: torch.tanh(A @ x))(x))


def test_an_embedding_bag_works() -> None:
    bag, which = module(nn.EmbeddingBag(10, 3, mode="sum")), torch.tensor([[1, 4, 7]])
    found, _ = differences(lambda w: bag(which, per_sample_weights=w[None])[0], point(3))
    close(found, bag.weight.detach()[which[0]].T)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["script", "trace", "export"])
def test_compiled_modules_work(kind: str) -> None:
    net, x = module(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))).eval(), point(4)
    made = {
        "script": lambda: torch.jit.script(net),
        "trace": lambda: torch.jit.trace(net, x),
        "export": lambda: torch.export.export(net, (x,)).module(),
    }[kind]()
    close(differences(made, x)[0], torch.func.jacrev(net)(x).detach())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_quantised_module_works_and_is_no_native_batch() -> None:
    """It scales its input by the range of the whole batch: a row then depends on the others."""
    if "onednn" not in torch.backends.quantized.supported_engines:
        pytest.skip("no engine to quantise with")
    net = nn.Sequential(nn.Linear(6, 3)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    x = point(1, 6, dtype=torch.float32)
    found, plan = differences(quantised, x, step=0.5)
    assert plan.rung != "native batch"
    assert (found[0, :, 0] - net[0].weight).abs().max() < 0.1  # a step of the grid is 1/50 of the range
    with pytest.raises(cj.FunctionError, match=r"batching='native'"):
        differences(lambda x: quantised(x.view(-1, 6)).view(*x.shape[:-1], 3), x, step=0.5, batching="native")


def test_vmap_that_was_asked_for_and_fails_is_the_functions_own_error_with_a_note() -> None:
    with pytest.raises(RuntimeError) as caught:
        differences(reads_a_value, point(4), batching="vmap")
    assert not isinstance(caught.value, cj.ChunkjacError)
    notes = " ".join(caught.value.__notes__)
    assert "vmap cannot batch func; batching='auto' or 'loop'" in notes
    assert "mode='auto'" not in notes  # no mode is left


def test_the_rung_that_was_asked_for_is_taken_and_tries_nothing_else() -> None:
    calls: list[torch.Size] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return x.sin()

    x = point(4)
    _, plan = differences(func, x, batching="loop", scheme="forward", chunk_size=4)
    assert plan.rung == "loop"
    assert set(calls) == {x.shape}
    calls.clear()
    cj.jacfd(func, batching="loop", scheme="forward", chunk_size=4)(x)
    assert (
        len(calls) == 2 + 1 + 4 + 1
    )  # twice at first, the base point once in a chunk, each direction once; at the end
    assert differences(func, x, batching="vmap")[1].reasons == ("mode='finite-difference' was given",)
    assert differences(func, x, batching="native")[1].reasons == ("mode='finite-difference' was given",)


def test_a_native_batch_takes_four_evaluations_before_the_first_chunk() -> None:
    calls: list[tuple[int, ...]] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(x.shape))
        return x.sin()

    cj.jacobian(func, point(4), mode="finite-difference")
    # Alone, three copies, the last of them alone, three copies; then two points a direction and one that is known; at
    # the end two points along all directions.
    assert calls == [(4,), (3, 4), (4,), (3, 4), (9, 4), (4,), (4,)]


@pytest.mark.parametrize("batching", ["auto", "native", "vmap", "loop"])
@pytest.mark.parametrize("size", [1e-11, 1e-3])
def test_noise_that_torch_does_not_draw_is_refused(batching: str, size: float) -> None:
    """A network on another machine may answer a little differently each time."""
    generator = np.random.default_rng(0)
    with pytest.raises(cj.FunctionError, match=r"different answers for the same input|each on its own"):
        differences(lambda x: x.exp() * (1 + size * float(generator.normal())), point(4), batching=batching)


@pytest.mark.parametrize("batching", ["auto", "loop"])
def test_masks_of_few_elements_are_refused(batching: str) -> None:
    """One of eight masks leaves a point of three as the last one did; the generator tells that there was one."""
    for seed in range(20):
        torch.manual_seed(seed)
        with pytest.raises(cj.FunctionError, match="different answers for the same input"):
            differences(lambda x: torch.nn.functional.dropout(x, 0.5), point(3), batching=batching)


@pytest.mark.parametrize("mode", ["reverse", "forward"])
@pytest.mark.parametrize("option", [{"batching": "loop"}, {"batching": 0}, {"bounds": (0, 1)}])
def test_options_of_finite_differences_are_refused_in_other_modes(mode: str, option: dict[str, Any]) -> None:
    for call in (cj.jacobian, cj.plan):
        with pytest.raises(cj.ArgumentError, match=f"{next(iter(option))} is for finite differences"):
            call(torch.sin, point(3), mode=mode, **option)


@pytest.mark.parametrize(
    ("batching", "error"),
    [
        ("rows", cj.ArgumentError),
        (True, cj.ArgumentTypeError),
        (1.0, cj.ArgumentTypeError),
        (None, cj.ArgumentTypeError),
    ],
)
def test_what_is_no_batching_is_refused_at_once(batching: Any, error: type[Exception]) -> None:
    for call in (
        lambda: cj.jacfd(torch.sin, batching=batching),
        lambda: cj.jacobian(torch.sin, point(3), batching=batching),
    ):
        with pytest.raises(error, match="batching must be one of 'auto', 'vmap', 'native', 'loop'"):
            call()


@pytest.mark.parametrize(
    ("func", "planned", "run"),
    [
        (torch.sin, "native batch", "native batch"),
        (lambda x: x[:, None] * x, "vmap(f)", "vmap(f)"),
        (lambda x: x.cumsum(0), "native batch", "vmap(f)"),  # only values tell
    ],
)
def test_a_plan_goes_by_shapes_and_a_run_says_where_values_differ(func: Any, planned: str, run: str) -> None:
    x = point(6)
    plan = cj.plan(func, x, mode="finite-difference")
    assert plan.rung == planned
    unsure = any("shows in the run" in reason for reason in plan.reasons)
    assert unsure == (planned == "native batch")
    found, report = plan.run(return_report=True)
    assert report.plan.rung == run
    assert any(reason.startswith("no native batch") for reason in report.plan.reasons) == (run == "vmap(f)")
    assert report.peak_bytes <= plan.predicted_peak_bytes
    close(found, torch.func.jacrev(func)(x))


def test_trying_a_batch_is_silent(caplog: pytest.LogCaptureFixture) -> None:
    """``x.T`` of a batch warns; fake tensors log what they cannot run."""
    A = point(5, 4)

    def func(x: torch.Tensor) -> torch.Tensor:
        return A @ (x.T @ x).sum(0)[:4]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cj.plan(func, point(2, 4), mode="finite-difference")
        differences(func, point(2, 4))
    assert not caplog.records


@pytest.mark.parametrize("n_chunk", [8, 64])
def test_points_that_go_one_by_one_need_one_copy_of_the_inputs(n_chunk: int) -> None:
    x = torch.zeros(1000)
    func: Callable[..., torch.Tensor] = lambda x: x[:3].sin()  # noqa: E731
    n_result = 3 * x.numel() * 4
    with LiveBytes(torch.device("cpu")) as tracker:
        _, report = cj.jacobian(
            func, x, mode="finite-difference", batching="loop", chunk_size=n_chunk, return_report=True
        )
    assert report.peak_bytes == tracker.peak_bytes
    assert tracker.peak_bytes <= n_result + 1.5 * x.nbytes + 100 * n_chunk


def test_where_the_check_does_not_fit_points_go_one_by_one() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 1:
            raise MemoryError("no room")
        return torch.from_numpy(x.numpy() ** 2)

    found, plan = differences(func, point(4))
    assert plan.rung == "loop"
    assert "do not fit in memory at once" in " ".join(plan.reasons)
    close(found, torch.diag(2 * point(4)))
    for batching in ("native", 0):
        with pytest.raises(MemoryError, match="no room"):
            differences(func, point(4), batching=batching)


def test_a_limit_that_one_point_fits_in_is_enough() -> None:
    net = nn.Sequential(nn.Linear(50, 2000), nn.Tanh(), nn.Linear(2000, 30)).requires_grad_(False)
    x = point(50, dtype=torch.float32)
    found = cj.jacobian(lambda x: net(x).cumsum(0), x, mode="finite-difference", max_memory=25_000)
    expected = torch.func.jacrev(lambda x: net(x).cumsum(0))(x)
    assert (found - expected).abs().max() < 1e-2 * expected.abs().max()


def test_random_numbers_of_the_user_are_left_as_they_are() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    for scheme in ("central", "complex"):
        differences(lambda x: x.exp(), point(4), scheme=scheme)
    assert torch.equal(torch.rand(3), expected)


def test_what_does_not_fit_is_told_that_one_point_at_a_time_may() -> None:
    func: Callable[..., torch.Tensor] = lambda x: x.expand(*x.shape[:-1], 2000, 1).exp().sum(-2)  # noqa: E731
    x = point(1)
    alone = cj.plan(func, x, mode="finite-difference", batching="loop").predicted_peak_bytes
    with pytest.raises(cj.BudgetError, match="batching='loop', which evaluates one point at a time"):
        cj.jacobian(func, x, mode="finite-difference", batching="vmap", max_memory=alone)
    for batching in ("auto", "loop"):
        found = cj.jacobian(func, x, mode="finite-difference", batching=batching, max_memory=alone)
        close(found, 2000 * x.exp()[:, None])


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
def test_a_program_of_its_own_has_a_jacobian() -> None:
    """What the program computes it says as text: nothing of it can be batched or differentiated."""
    program = "import sys; a, b = map(float, sys.argv[1:]); print(repr(a * b), repr(a + b * b))"

    def func(x: torch.Tensor) -> torch.Tensor:
        words = subprocess.run(
            [sys.executable, "-S", "-c", program, *map(repr, x.tolist())], check=True, capture_output=True, text=True
        ).stdout.split()
        return torch.tensor([float(word) for word in words], dtype=torch.float64)

    x = torch.tensor([2.0, 3.0], dtype=torch.float64)
    found, report = cj.jacobian(func, x, return_report=True)
    assert (report.plan.mode, report.plan.rung) == ("finite-difference", "loop")
    assert torch.allclose(found, torch.tensor([[3.0, 2.0], [1.0, 6.0]], dtype=torch.float64), atol=1e-7)


def test_a_sparse_constant_in_the_function_is_no_matter() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        torch.zeros(2, 2, layout=torch.sparse_coo, dtype=x.dtype)
        return y

    found = cj.jacobian(func, torch.ones(3, dtype=torch.float64), mode="finite-difference")
    torch.testing.assert_close(found, 2 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_what_comparing_rows_takes_is_counted(dtype: torch.dtype) -> None:
    values = torch.ones(10_000, dtype=dtype)
    with LiveBytes(values.device) as live:
        assert distance(values, values) == 0
    assert live.peak_bytes >= values.nbytes


def energy(z: torch.Tensor) -> torch.Tensor:
    return (z**4).sum() / 4 + (z[:-1] * z[1:]).sum()


def forces(x: torch.Tensor) -> torch.Tensor:
    z = x.detach().clone().requires_grad_(True)
    return torch.autograd.grad(energy(z), z)[0]


def forces_of_the_input_itself(x: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(energy(x.requires_grad_(True)), x, create_graph=True)[0]


def forces_of_each_row(x: torch.Tensor) -> torch.Tensor:
    z = x.detach().clone().requires_grad_(True)
    return torch.autograd.grad((z**4 / 4 + z * z.detach().roll(1, -1)).sum(), z)[0]


def fitted(x: torch.Tensor) -> torch.Tensor:
    w = torch.zeros(4, dtype=F64, requires_grad=True)
    optimiser = torch.optim.SGD([w], 0.5)
    for _ in range(3):
        optimiser.zero_grad()
        ((w - x.detach() ** 2) ** 2).sum().backward()
        optimiser.step()
    return w.detach()


OFF_DIAGONAL = torch.diag(torch.ones(3, dtype=F64), 1)
WITH_GRADIENTS: dict[str, tuple[Callable[..., Any], Callable[[torch.Tensor], torch.Tensor], str]] = {
    "forces": (forces, lambda x: torch.diag(3 * x**2) + OFF_DIAGONAL + OFF_DIAGONAL.T, "loop"),
    "forces of the input": (
        forces_of_the_input_itself,
        lambda x: torch.diag(3 * x**2) + OFF_DIAGONAL + OFF_DIAGONAL.T,
        "loop",
    ),
    "of each row": (
        forces_of_each_row,
        lambda x: torch.diag(3 * x**2) + torch.eye(4, dtype=F64).roll(1, 0),
        "native batch",
    ),
    "an inner optimiser": (fitted, lambda x: torch.diag(2 * x), "loop"),
    "whether they are on": (
        lambda x: x**2 if torch.is_grad_enabled() else x,
        lambda x: torch.diag(2 * x),
        "native batch",
    ),
}


@pytest.mark.parametrize("scheme", ["central", "richardson"])
@pytest.mark.parametrize("name", WITH_GRADIENTS)
def test_functions_that_take_gradients_inside_are_evaluated_as_when_they_are_called(name: str, scheme: str) -> None:
    func, jacobian, rung = WITH_GRADIENTS[name]
    x = point(4)
    found, plan = differences(func, x, scheme=scheme)
    assert plan.rung == rung
    assert not found.requires_grad
    close(found, jacobian(x))
    plan = cj.plan(func, x, mode="finite-difference", scheme=scheme)
    for at in (x, 2 * x, x):
        close(plan.run(at), jacobian(at))
    if name != "whether they are on":
        close(cj.jacobian(func, x, mode="auto"), jacobian(x))


def test_gradients_are_off_where_the_caller_has_them_off() -> None:
    func: Callable[..., torch.Tensor] = lambda x: x**2 if torch.is_grad_enabled() else x**3  # noqa: E731
    x = point(4)
    with torch.no_grad():
        close(differences(func, x)[0], torch.diag(3 * x**2))
        with pytest.raises(RuntimeError, match="does not require grad"):
            differences(forces, x)


def test_what_only_runs_without_gradients_still_does() -> None:
    weight = nn.Parameter(point(4, 4))
    for batching in ("auto", "loop"):
        found, _ = differences(lambda x: torch.from_numpy((x @ weight.T).numpy()), point(4), batching=batching)
        close(found, weight.detach())


def test_no_graph_is_made_where_it_changes_nothing() -> None:
    """A network's own parameters require gradients, which nobody takes: activations would be held."""
    modes: list[bool] = []
    net = module(nn.Sequential(nn.Linear(4, 30), nn.Tanh(), nn.Linear(30, 4)))

    def func(x: torch.Tensor) -> torch.Tensor:
        modes.append(torch.is_grad_enabled())
        return net(x)

    found, _ = differences(func, point(4))
    close(found, torch.func.jacrev(net)(point(4)).detach())
    assert modes[0]
    assert not any(modes[1:])


def test_memory_does_not_grow_with_graphs() -> None:
    weight = nn.Parameter(point(30, 30))

    def func(x: torch.Tensor) -> torch.Tensor:
        z = (x @ weight).tanh()
        return torch.autograd.grad(z.sum(), weight, create_graph=True)[0].sum(0)

    for batching in ("loop", "auto"):
        _, report = cj.jacobian(
            func, point(30), mode="finite-difference", batching=batching, return_report=True, chunk_size=3
        )
        assert report.growth_bytes == 0


BRANCHES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "that no batch fits": (
        lambda x: x**2 if x.sum() > 0 else torch.ones(6, 6, dtype=F64) @ x,
        lambda x: torch.diag(2 * x) if x.sum() > 0 else torch.ones(6, 6, dtype=F64),
    ),
    "that mixes rows": (
        lambda x: x**2 if x.sum() > 0 else x.cumsum(0),
        lambda x: torch.diag(2 * x) if x.sum() > 0 else torch.ones(6, 6, dtype=F64).tril(),
    ),
    "that reads each value": (
        lambda x: x**2 if x.sum() > 0 else torch.tensor([v**3 for v in x.tolist()], dtype=F64),
        lambda x: torch.diag(2 * x) if x.sum() > 0 else torch.diag(3 * x**2),
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_plan_goes_down_the_ladder_where_another_branch_is_taken(name: str) -> None:
    func, jacobian = BRANCHES[name]
    x = torch.linspace(0.5, 1.5, 6, dtype=F64)
    plan = cj.plan(func, x, mode="finite-difference")
    for at in (x, -x, x, 2 * x, -2 * x, -x, x):
        close(plan.run(at), jacobian(at))


@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}])
def test_a_batch_that_raises_in_a_chunk_goes_a_rung_lower(options: dict[str, Any]) -> None:
    """The check of a few rows cannot see it."""

    def func(x: torch.Tensor) -> torch.Tensor:
        if x.dim() > 1 and len(x) > 3:
            raise RuntimeError("too many rows")
        return x.sin()

    found, plan = differences(func, point(8), **options)
    assert plan.rung == "vmap(f)"
    assert "too many rows" in " ".join(plan.reasons)
    close(found, torch.diag(point(8).cos()))
    with pytest.raises(RuntimeError, match="too many rows"):
        differences(func, point(8), batching="native")


class SumsRows(torch.autograd.Function):
    """Be a function without a derivative, whose batching rule adds up along the batch."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(0)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: torch.Tensor) -> tuple[torch.Tensor, Any]:
        return x.cumsum(0), in_dims[0]


WRONG_RULES: dict[str, tuple[Callable[..., torch.Tensor], torch.Tensor, torch.Tensor]] = {
    "roll of a number": (lambda x: torch.roll(x * 3, 1), torch.tensor(2.0, dtype=F64), torch.tensor(3.0, dtype=F64)),
    "a rule of the user's": (SumsRows.apply, point(3), torch.ones(3, 3, dtype=F64).tril()),
}


@pytest.mark.parametrize("name", WRONG_RULES)
def test_batching_rules_that_are_wrong_are_not_used(name: str) -> None:
    func, x, jacobian = WRONG_RULES[name]
    for mode in ("auto", "finite-difference"):
        if not (mode == "auto" and name.startswith("roll")):
            close(cj.jacobian(func, x, mode=mode), jacobian)
    with pytest.raises(cj.FunctionError, match="batching='vmap' needs func to give"):
        differences(func, x, batching="vmap")


def test_no_native_batch_is_tried_where_an_index_out_of_bounds_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On an accelerator. Nor are points tried that are farther away than those of the differences."""
    shapes, farthest = set(), 0.0
    monkeypatch.setattr(Ladder, "_is_harmless", False)
    x = torch.tensor([0.4, 2.4, 1.4], dtype=F64)
    table = point(3)

    def func(y: torch.Tensor) -> torch.Tensor:
        nonlocal farthest
        shapes.add(tuple(y.shape))
        inner = torch._C._functorch.get_unwrapped(y) if torch._C._functorch.is_batchedtensor(y) else y
        farthest = max(farthest, float((inner - x).abs().max()))
        return table[y.long()] * y

    for options, rung in (({}, "vmap(f)"), ({"batching": "loop"}, "loop")):
        found, plan = differences(func, x, **options)
        assert plan.rung == rung
        close(found, torch.diag(table[x.long()]))
    assert shapes == {(3,)}
    assert farthest < 1e-3
    assert "index out of bounds" in " ".join(differences(func, x)[1].reasons)
