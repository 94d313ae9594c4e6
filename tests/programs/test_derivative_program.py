"""A plan's later runs, by its linear program: right for new inputs, and for functions that have changed."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._memory.out_of_memory import OverBudget
from chunkjac._memory.tracker import LiveBytes
from chunkjac._programs.replay.running import Running

D = torch.float64
MODES = ("reverse", "forward")


@pytest.fixture(autouse=True)
def never_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs stay where they are no faster, as in tiny jobs."""
    monkeypatch.setattr("chunkjac._programs.records.SHORT_S", -1.0)  # also where none is faster


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the name of a mode."""
    return request.param


def _reference(func: Callable[..., Any], mode: str, args: tuple[torch.Tensor, ...], argnums: Any = 0) -> Any:
    transform = torch.func.jacrev if mode == "reverse" else torch.func.jacfwd
    return transform(func, argnums)(*args)


def _point(*shape: int, dtype: torch.dtype = D) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(len(shape) + sum(shape)))


def _net(dtype: torch.dtype = D) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Dropout(0.5), nn.Linear(9, 5)).to(dtype).eval()


def _is_right_in_each_run(func: Any, mode: str, change: Callable[[], Any] | None = None, x: Any = None) -> None:
    """Run a plan thrice, change something, run it twice more; compare each with torch.func."""
    x = _point(6) if x is None else x
    planned = cj.plan(func, x, mode=mode)
    tolerance = 1e-9 if x.dtype == D else torch.finfo(x.dtype).eps ** 0.7
    for i in range(5):
        if i == 3 and change is not None:
            change()
        at = x + i / 8
        found, report = planned.run(at, return_report=True)
        torch.testing.assert_close(found, _reference(func, mode, (at,)), rtol=tolerance, atol=tolerance)
        assert (report.plan.rung == "linear program") == (i > 0)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x,
        lambda x: x.view(2, 3).T,
        lambda x: x[:1].expand(5),
        lambda x: torch.zeros(4, dtype=x.dtype),
        lambda x: torch.relu(x - 0.3).cumsum(0).flip(0)[::2],
        lambda x: torch.where(x > 0.2, x.sin(), x**2),
        lambda x: x.sin().max(0).values * x,
        lambda x: x.clone().mul_(2).add_(x).sin_(),
        lambda x: torch.fft.fft(x.sin()).abs(),
        lambda x: (x.float().sin() * 2).to(x.dtype) * x,
        lambda x: x.cos()[x.sin().topk(3).indices],
        lambda x: torch.cat([x.sin(), torch.ones(2, dtype=x.dtype), x[2:4]]),
    ],
    ids=lambda f: None,
)
def test_a_program_is_right_at_other_inputs(func: Any, mode: str) -> None:
    _is_right_in_each_run(func, mode)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_program_is_right_in_each_precision(mode: str, dtype: torch.dtype) -> None:
    _is_right_in_each_run(_net(dtype), mode, x=_point(6, dtype=dtype))


def test_a_program_sees_parameters_that_change_in_place(mode: str) -> None:
    net = _net()

    def change() -> None:
        with torch.no_grad():
            net[0].weight.mul_(1.5)

    _is_right_in_each_run(net, mode, change)


def test_a_program_sees_the_data_of_parameters_replaced(mode: str) -> None:
    net = _net()
    _is_right_in_each_run(net, mode, lambda: setattr(net[0].weight, "data", _point(9, 6)))


def test_a_program_sees_parameters_replaced(mode: str) -> None:
    net = _net()
    _is_right_in_each_run(net, mode, lambda: setattr(net[0], "weight", nn.Parameter(_point(9, 6))))


def test_a_program_sees_buffers_change(mode: str) -> None:
    norm = nn.BatchNorm1d(2).to(D).eval()
    _is_right_in_each_run(lambda x: norm(x.view(3, 2)), mode, lambda: norm.running_mean.add_(0.3))


def test_a_program_sees_captured_tensors_change(mode: str) -> None:
    factor, indices = torch.ones(6, dtype=D), torch.tensor([0, 1, 2])
    _is_right_in_each_run(lambda x: (x.sin() * factor)[indices], mode, lambda: (factor.mul_(3), indices.add_(2)))


def test_a_program_sees_a_module_switched_to_training(mode: str) -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sin() if self.training else x.cos()

    net = Net().eval()
    _is_right_in_each_run(net, mode, net.train)


def test_a_program_sees_a_hook_that_is_registered_later(mode: str) -> None:
    net = _net()
    _is_right_in_each_run(net, mode, lambda: net[0].register_forward_hook(lambda module, args, out: out.detach() + out))


class _Stops(nn.Module):
    """Return the same values with a derivative and without, as a flag says."""

    limit: float = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.flag = False
        self.flags = {"stop": [False]}
        self.held = _Flag()
        self.register_buffer("read", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.sin()
        is_stopped = (
            self.flag or self.flags["stop"][0] or self.held.stop or self.read.item() or _flag.stop or self.limit
        )
        return y.detach() + x if is_stopped else y + x


class _Flag:
    __slots__ = ("stop",)

    def __init__(self) -> None:
        self.stop = False


_flag = _Flag()


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "flag", True),
        lambda net: net.flags.__setitem__("stop", [True]),
        lambda net: net.flags["stop"].__setitem__(0, True),
        lambda net: setattr(net.held, "stop", True),
        lambda net: net.read.fill_(1),
        lambda net: net.read.data.fill_(1),
        lambda net: setattr(_flag, "stop", True),
        lambda net: setattr(_Stops, "limit", 1.0),
    ],
    ids=["attribute", "entry", "item", "slot", "buffer", "data", "global", "class"],
)
def test_a_program_sees_a_flag_that_changes_the_derivative_and_no_value(
    change: Callable[[nn.Module], Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_flag, "stop", False)
    monkeypatch.setattr(_Stops, "limit", 0.0)
    net = _Stops()
    _is_right_in_each_run(net, mode, lambda: change(net))


def test_a_program_sees_variables_that_a_function_closes_over(mode: str) -> None:
    settings = {"stop": False}

    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sin().detach() + x if settings["stop"] else x.sin() + x

    _is_right_in_each_run(func, mode, lambda: settings.update(stop=True))


def test_a_program_follows_functions_that_decide_by_values(mode: str) -> None:
    x = _point(6)
    planned = cj.plan(lambda x: x.sin() if x.sum().item() < 1 else x.cos(), x, mode=mode)
    for i in (0, 1, 2, 0, 2):
        found, report = planned.run(x + i, return_report=True)
        assert torch.equal(found.diagonal(), (x + i).cos() if (x + i).sum() < 1 else -(x + i).sin())
    assert report.plan.rung == "linear program"


@pytest.mark.parametrize("read", [lambda x: x.tolist()[0], lambda x: x[0].item()], ids=["tolist", "item"])
def test_a_program_sees_values_that_are_read_in_any_way(read: Callable[[torch.Tensor], float], mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * (1.0 if read(x.detach()) > 0 else 3.0)

    x = _point(6)
    planned = cj.plan(func, x, mode=mode)
    for sign in (1, 1, 1, -1, 1, -1):
        at = torch.cat([x.new_full((1,), float(sign)), x[1:]])
        expected = at.cos() * (1.0 if sign > 0 else 3.0)
        torch.testing.assert_close(planned.run(at).diagonal(), expected, rtol=1e-12, atol=1e-12)


def test_a_write_to_a_part_of_a_tensor_is_no_constant(mode: str) -> None:
    def func(v: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        padded = torch.zeros(u.numel() + 2, dtype=u.dtype)
        padded[1:-1] = u
        return torch.cat([v.sin(), padded[2:] - 2 * padded[1:-1] + padded[:-2]])

    args = _point(8), _point(7)
    planned = cj.plan(func, *args, argnums=(0, 1), mode=mode, chunk_size=4)
    wanted = torch.func.jacrev(func, (0, 1))(*args)
    for _ in range(3):
        for found, part in zip(planned.run(*args), wanted):
            torch.testing.assert_close(found, part, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "func",
    [
        lambda x: x.unfold(0, 3, 1) * 2.0,
        lambda x: x.take(torch.arange(30) % 6) * 2.0,
        lambda x: torch.zeros(30, dtype=x.dtype).masked_scatter(torch.arange(30) % 5 == 0, x) * 2.0,
    ],
    ids=["unfold", "take", "masked_scatter"],
)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_rows_are_never_what_was_in_memory_before(func: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = _point(6)
    leaf = x.clone().requires_grad_()
    elements = func(leaf).reshape(-1)
    wanted = torch.stack([torch.autograd.grad(one, leaf, retain_graph=True)[0] for one in elements])
    planned = cj.plan(func, x, mode="reverse")
    for _ in range(4):
        soiled = [torch.full((n,), torch.nan, dtype=x.dtype) for n in (64, 256, 1024, 4096)]
        del soiled
        assert torch.equal(planned.run(x).reshape(-1, 6), wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_no_program_is_made_of_an_operation_without_a_batching_rule() -> None:
    """torch's loop over as many seeds as there were would be recorded."""
    x = _point(6)
    planned = cj.plan(lambda x: x.take(torch.arange(30) % 6) * 2.0, x, mode="reverse")
    for _ in range(3):
        _, report = planned.run(x, return_report=True)
    assert report.plan.rung != "linear program"
    assert any("no linear program" in reason and "vmap fallback" in reason for reason in report.plan.reasons)


def test_fewer_directions_in_the_last_chunk_change_nothing(mode: str) -> None:
    weight = _point(7, 11)

    def func(x: torch.Tensor) -> torch.Tensor:
        return (weight @ x.sin()).tanh()

    x = _point(11)
    for chunk_size in (2, 3, 5, 100):
        planned = cj.plan(func, x, mode=mode, chunk_size=chunk_size)
        for i in range(3):
            found, report = planned.run(x + i, return_report=True)
            torch.testing.assert_close(found, _reference(func, mode, (x + i,)))
            assert (report.plan.rung == "linear program") == (i > 0)


def test_several_inputs_and_outputs_and_other_arguments(mode: str) -> None:
    def func(a: torch.Tensor, scale: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"product": a[:, None] * b * scale, "one": b.sum().tanh(), "constant": torch.ones(2, dtype=D)}

    a, scale, b = _point(4), _point(1), _point(3)
    planned = cj.plan(func, a, scale, b, argnums=(0, 2), mode=mode)
    for i in range(4):
        args = a + i, scale * (i + 1), b - i
        found, report = planned.run(*args, return_report=True)
        torch.testing.assert_close(found, _reference(func, mode, args, (0, 2)))
    assert report.plan.rung == "linear program"


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_empty_inputs_give_empty_jacobians_in_each_run(mode: str, shape: tuple[int, ...]) -> None:
    planned = cj.plan(lambda x: torch.cat([x.sin().reshape(-1), torch.ones(3, dtype=D)]), _point(*shape), mode=mode)
    for _ in range(3):
        assert planned.run().shape == (3, *shape)


def test_infinite_factors_are_left_to_the_other_rungs(mode: str) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return x.abs().sqrt() * 2

    x = torch.tensor([0.0, 1.0, 4.0], dtype=D)
    planned = cj.plan(func, x, mode=mode, verify=0)
    for _ in range(3):
        torch.testing.assert_close(planned.run(), _reference(func, mode, (x,)), equal_nan=True)


def test_a_program_keeps_to_the_budget(mode: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 64)).to(D)
    x = _point(64)
    planned = cj.plan(net, x, mode=mode, max_memory="400KiB")
    for i in range(4):
        with LiveBytes(torch.device("cpu")) as outer:
            found, report = planned.run(x + i, return_report=True)
        torch.testing.assert_close(found, _reference(net, mode, (x + i,)))
        assert report.peak_bytes <= planned.budget_bytes
        assert outer.peak_bytes <= planned.budget_bytes


def test_runs_leave_no_tensors_behind(mode: str) -> None:
    """A plan may keep what its program recorded; more runs must not add to it."""
    net = _net()
    x = _point(6)
    planned = cj.plan(net, x, mode=mode)
    with LiveBytes(torch.device("cpu")) as live:
        for _ in range(3):
            planned.run(x)
        gc.collect()
        before = live.live_bytes
        for i in range(5):
            planned.run(x + i)
        gc.collect()
        assert live.live_bytes <= before
        del planned
        gc.collect()
        assert live.live_bytes == 0


def test_a_first_rung_that_cannot_run_the_function_leaves_the_program_alone() -> None:
    """Fused attention has no forward derivative; its parts have, and those are what is recorded."""
    x = _point(1, 2, 4, 8)
    planned = cj.plan(lambda x: nn.functional.scaled_dot_product_attention(x, x, x), x, mode="forward")
    with pytest.warns(cj.RungWarning, match="plain kernels"):
        first = planned.run()
    for _ in range(2):
        found, report = planned.run(return_report=True)
        torch.testing.assert_close(found, first)
        assert report.plan.rung == "linear program"


def test_a_program_that_is_slower_in_a_long_job_is_given_up(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._programs.derivative_program.SHORT_S", 0.0)
    monkeypatch.setattr("chunkjac._programs.derivative_program.DerivativeProgram.note", _as_if_quick)
    planned = cj.plan(_net(), _point(6), mode=mode)
    rungs = [planned.run(return_report=True)[1].plan.rung for _ in range(5)]
    assert rungs[1:4] == ["linear program"] * 3  # the second run records, the third and the fourth are timed
    assert rungs[4] != "linear program"
    assert any("without one" in reason for reason in planned.run(return_report=True)[1].plan.reasons)


def _as_if_quick(self: Any, *_: Any) -> None:
    """Take a direction to have taken no time without a program."""
    self._record.direction_s = 0.0


def _peak_bytes(run: Callable[[], object]) -> int:
    """Return the most that is alive while something runs, as a tracker outside sees it."""
    gc.collect()
    with LiveBytes(torch.device("cpu")) as live:
        run()
    return live.peak_bytes


def _counted_operations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list that all operations join which a run's own tracker sees from now on."""
    seen: list[Any] = []
    count = LiveBytes.__torch_dispatch__

    def note(self: LiveBytes, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.limit_bytes is not None:
            seen.append(func)
        return count(self, func, types, args, kwargs)

    monkeypatch.setattr(LiveBytes, "__torch_dispatch__", note)
    return seen


@pytest.mark.sweep
def test_under_a_limit_a_program_that_was_counted_keeps_to_it_uncounted(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = nn.Sequential(nn.Linear(300, 400), nn.GELU(), nn.Linear(400, 350)).to(D), _point(300)
    limit_bytes = 300 * 350 * 8 + 6 * 2**20
    planned = cj.plan(net, x, mode=mode, max_memory=limit_bytes)
    peaks = [_peak_bytes(lambda: planned.run(x)) for _ in range(4)]
    assert max(peaks) <= limit_bytes
    seen = _counted_operations(monkeypatch)
    torch.testing.assert_close(planned.run(x + 1), _reference(net, mode, (x + 1,)))
    n_seen = len(seen)
    planned.run(x, return_report=True)
    assert n_seen < len(seen) / 2  # the function, and one direction; a report's blocks are counted


@pytest.mark.sweep
def test_under_a_limit_a_function_that_has_grown_is_counted_again(mode: str) -> None:
    parts = {"n_copies": 1}

    def widened(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x.sin()] * parts["n_copies"]).mean(0)

    x = _point(200)
    planned = cj.plan(widened, x, mode=mode, max_memory=200 * 200 * 8 + 2**20)
    for _ in range(4):
        planned.run(x)
    parts["n_copies"] = 1000
    with pytest.raises(cj.BudgetError):
        planned.run(x)


def test_under_a_limit_blocks_are_counted_where_a_program_is_given_up(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, x = _net(), _point(6)
    planned = cj.plan(net, x, mode=mode, max_memory="1MiB")
    for _ in range(4):
        planned.run(x)

    def fail(*_: Any) -> None:
        raise RuntimeError("no longer")

    monkeypatch.setattr("chunkjac._programs.replay.running.Running.block", fail)
    seen = _counted_operations(monkeypatch)
    torch.testing.assert_close(planned.run(x), _reference(net, mode, (x,)))
    assert torch.ops.aten.mm.default in seen or torch.ops.aten.addmm.default in seen


def test_a_program_whose_later_blocks_are_wrong_is_given_up(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, block = _net(), _point(6), Running.block
    planned = cj.plan(net, x, mode=mode, chunk_size=2)
    for _ in range(3):
        planned.run(x)

    def drift(self: Running, start: int, *others: Any) -> Any:
        made = block(self, start, *others)
        return tuple(values * 1.01 for values in made) if start >= 4 else made

    monkeypatch.setattr(Running, "block", drift)
    found, report = planned.run(x, return_report=True)
    torch.testing.assert_close(found, _reference(net, mode, (x,)), rtol=1e-9, atol=1e-9)
    assert any("other values than one direction" in reason for reason in report.plan.reasons)


def test_a_program_that_does_not_fit_gives_its_memory_back_and_a_smaller_one_is_tried(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory must not hang on the exception that says so, until somebody collects garbage."""
    net, x = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 64)).to(D), _point(64)
    planned = cj.plan(net, x, mode=mode, max_memory="10MiB")
    planned.run(x)
    block, failed, sizes = Running.block, [], []

    def fail_once(self: Running, *args: Any) -> Any:
        if not failed:
            failed.append(weakref.ref(self))
            raise OverBudget("too little is left")
        assert failed[0]() is None
        sizes.append(self.program.size)
        return block(self, *args)

    monkeypatch.setattr(Running, "block", fail_once)
    gc.disable()
    try:
        found = planned.run(x)
    finally:
        gc.enable()
    torch.testing.assert_close(found, _reference(net, mode, (x,)))
    assert sizes
    assert max(sizes) <= 32


def test_a_job_goes_on_without_a_program_where_there_is_no_room_to_record_one(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_out(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("chunkjac._programs.recording.recorded_step", run_out)
    net, x = _net(), _point(6)
    planned = cj.plan(net, x, mode=mode)
    for _ in range(3):
        found, report = planned.run(x, return_report=True)
        torch.testing.assert_close(found, _reference(net, mode, (x,)))
        assert report.plan.rung != "linear program"


def test_what_takes_very_long_to_record_waits_until_runs_have_taken_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chunkjac._programs.worth._NODE_S", 10.0)  # a node of autograd's graph
    planned = cj.plan(torch.sin, torch.linspace(0, 1, 64), mode="reverse")
    rungs = [planned.run(return_report=True)[1].plan.rung for _ in range(3)]
    assert "linear program" not in rungs
    monkeypatch.setattr("chunkjac._programs.worth._NODE_S", 3e-4)
    assert planned.run(return_report=True)[1].plan.rung == "linear program"


_OF_MANY_KINDS: dict[str, Callable[[], Any]] = {
    "dense": lambda: nn.Sequential(nn.Linear(300, 400), nn.GELU(), nn.Linear(400, 350)),
    "convolutions": lambda: nn.Sequential(
        nn.Unflatten(-1, (3, 10, 10)), nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 4, 3), nn.Flatten(-3)
    ),
    "attention": lambda: lambda x: torch.softmax(x.view(10, 30) @ x.view(30, 10), -1) @ x.view(10, 30).sin(),
    "transform": lambda: lambda x: torch.fft.rfft(x.sin()).abs().cumsum(-1),
    "several outputs": lambda: (
        lambda x: tuple(torch.sin(x.view(1, 3, 10, 10) * i)[:, :, ::4, ::4] for i in range(1, 6))
    ),
}


@pytest.mark.sweep
@pytest.mark.parametrize("name", _OF_MANY_KINDS)
def test_what_a_program_takes_at_most_is_known_before_it_runs(
    name: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    func = _OF_MANY_KINDS[name]()
    func = func.requires_grad_(False) if isinstance(func, nn.Module) else func
    x = _point(300, dtype=torch.float32)
    made: list[tuple[Any, ...]] = []
    begin = Running.__init__

    def note(self: Running, program: Any, values: Any, feed: Any, device: Any) -> None:
        made.append((program, values, feed))
        begin(self, program, values, feed, device)

    monkeypatch.setattr(Running, "__init__", note)
    planned = cj.plan(func, x, mode=mode)
    planned.run(x)
    planned.run(x)
    monkeypatch.undo()
    program, values, feed = made[-1]
    feed(0)  # seeds are not the program's

    def run() -> None:
        with torch.no_grad():
            Running(program, values, feed, x.device).block(0)

    assert 0.7 * program.most_bytes <= _peak_bytes(run) <= 1.01 * program.most_bytes + 4096


@pytest.mark.sweep
def test_under_a_limit_a_program_is_laid_out_for_as_many_directions_as_fit(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors of sixty layers take most of the room; what is left is known, so nothing is refused."""
    mixing, x = _point(400, 400) / 20, _point(400)

    def deep(x: torch.Tensor) -> torch.Tensor:
        for _ in range(60):
            x = (mixing @ x).sin()
        return x

    refused = []

    def noted(run: Callable[..., Any]) -> Callable[..., Any]:
        def try_to_run(self: Running, *args: Any, **options: Any) -> Any:
            try:
                return run(self, *args, **options)
            except OverBudget:
                refused.append(run)
                raise

        return try_to_run

    monkeypatch.setattr(Running, "__init__", noted(Running.__init__))
    monkeypatch.setattr(Running, "block", noted(Running.block))
    limit_bytes = 400 * 400 * 8 + 270 * 3200
    planned = cj.plan(deep, x, mode=mode, max_memory=limit_bytes)
    planned.run(x)
    found, report = planned.run(x, return_report=True)
    assert report.plan.rung == "linear program"
    assert report.peak_bytes <= limit_bytes
    assert report.chunk_sizes[0] >= 10
    assert not refused
    torch.testing.assert_close(found, _reference(deep, mode, (x,)))


def test_seeds_of_many_directions_are_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all 8000 outputs at once take 488 MiB, however little each direction takes beside."""
    monkeypatch.setattr("chunkjac._programs.derivative_program.DerivativeProgram.note", _as_if_quick)
    net, x = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8000)).to(D), _point(6)
    planned = cj.plan(net, x, mode="reverse")
    for _ in range(3):
        found, report = planned.run(x, return_report=True)
        assert report.peak_bytes < 40 * 2**20
    assert report.plan.rung == "linear program"
    torch.testing.assert_close(found, _reference(net, "reverse", (x,)))
