"""What is cheap to see of an evaluation is enough to give back what it writes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import chunkjac as cj
from chunkjac._executor.run import run_job
from chunkjac._memory.budget import Budget
from chunkjac._memory.tracker import LiveBytes
from chunkjac._modes.derivatives.graph_nodes import nodes_behind
from chunkjac._planner.job import Job
from chunkjac._planner.options import Options
from chunkjac._problem.call_watcher import CallWatcher
from chunkjac._problem.first_time import FirstTime
from chunkjac._problem.problem import Problem
from chunkjac._problem.write_watcher import WriteWatcher

CPU = torch.device("cpu")
STATE = torch.ones(2, 3)
A = torch.linspace(-1, 1, 16).view(4, 4) ** 2 + torch.eye(4)


@pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")
@pytest.mark.parametrize(
    "write",
    [
        lambda x: STATE.add_(1),
        lambda x: STATE.view(-1)[2:].mul_(3),
        lambda x: STATE.__setitem__((0, 1), 7.0),
        lambda x: STATE.__iadd__(1),
        lambda x: torch.add(STATE, 1, out=STATE),
        lambda x: torch.relu_(STATE.neg_()),
        lambda x: functional.relu(STATE.T, inplace=True).neg_(),
        lambda x: functional.batch_norm(
            x[None].expand(4, 3) * torch.arange(4)[:, None], STATE[0], STATE[1], training=True
        ),
        lambda x: torch.batch_norm(x[None] + torch.eye(3), None, None, STATE[0], STATE[1], True, 0.1, 1e-5, False),
        lambda x: functional.embedding(torch.tensor([1]), STATE, max_norm=0.1),
        lambda x: torch.ops.aten.mul_.Tensor(STATE, 2),
        lambda x: torch._foreach_mul_([STATE[0], STATE[1]], 2.0),
        lambda x: nn.init.zeros_(STATE),
        lambda x: STATE.uniform_(),
        lambda x: torch.fused_moving_avg_obs_fake_quant(
            x,
            *torch.ones(2, 1, dtype=torch.long),
            *STATE.view(-1)[:3].split(1),
            torch.zeros(1, dtype=torch.int32),
            0.5,
            0,
            255,
            -1,
        ),
    ],
)
def test_whatever_writes_to_a_captured_tensor_is_undone(write: Callable[[torch.Tensor], Any]) -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        write(x.detach())
        return x.sin()

    STATE.fill_(1)
    x = torch.linspace(0, 1, 3)
    assert torch.allclose(cj.jacobian(func, x, mode="reverse"), x.cos().diag())
    assert torch.equal(STATE, torch.ones(2, 3))
    func(x)
    assert not torch.equal(STATE, torch.ones(2, 3)), "this writes to nothing"
    STATE.fill_(1)


@pytest.mark.parametrize("mode", ["auto", "reverse", "forward", "finite-difference"])
@pytest.mark.parametrize(
    "make", [lambda: A @ A, lambda: A.triu(), lambda: functional.softmax(A, 0), lambda: A.svd()[0]]
)
def test_what_a_function_keeps_of_its_own_is_left_to_it(make: Callable[[], torch.Tensor], mode: str) -> None:
    """It is worked on in place after it was made, so it must not get back what it was before."""
    cache: dict[str, torch.Tensor] = {}

    def func(x: torch.Tensor) -> torch.Tensor:
        if not cache:
            cache["matrix"] = make().clamp_(min=0.1)
        return cache["matrix"] @ x

    x, wanted = torch.ones(4), make().clamp(min=0.1)
    for _ in range(2):
        assert torch.allclose(cj.jacobian(func, x, mode=mode), wanted, atol=1e-2)
    assert torch.equal(cache["matrix"], wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::chunkjac.RungWarning")
def test_what_a_scripted_function_writes_to_is_undone_where_it_can_be_seen() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls.add_(1)
            return x.sin()

    net = torch.jit.script(Counting())
    cj.jacobian(lambda x: net(x), torch.ones(3), mode="reverse")
    assert float(net.calls) == 0


def test_pure_calls_are_not_looked_at_closely() -> None:
    class Seen(WriteWatcher):
        n_seen = 0

        def __torch_dispatch__(self, *args: Any, **kwargs: Any) -> Any:
            Seen.n_seen += 1
            return super().__torch_dispatch__(*args, **kwargs)

    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.ReLU(), nn.Dropout(), nn.BatchNorm1d(4), nn.GELU()).eval()
    x = torch.randn(2, 3)
    with CallWatcher(Seen()):
        (1 - net(x)).norm() + torch.einsum("ij->", net(x)) + x.split(1)[0].sum() + x[:, 1].max()
    assert Seen.n_seen == 0
    with CallWatcher(Seen()):
        x.clone().add_(1)[0].mul_(2)
        torch.zeros(3)[1:] = x[0, 1:]
    assert Seen.n_seen == 0  # it is its own
    with CallWatcher(Seen()):
        x.add_(1)
    assert Seen.n_seen == 1


def test_random_numbers_of_a_generator_of_its_own_are_noticed() -> None:
    generator = torch.Generator().manual_seed(0)
    for draw in (lambda: torch.rand(3, generator=generator), lambda: torch.zeros(3).normal_(generator=generator)):
        calls = CallWatcher(WriteWatcher())
        with calls:
            torch.rand(3)
            assert not calls.draws_apart
            draw()
        assert calls.draws_apart


def test_from_a_share_on_all_is_counted_exactly() -> None:
    """What was made before is what calls gave."""
    tracker, x = LiveBytes(CPU), torch.zeros(100)
    with CallWatcher(WriteWatcher(), tracker, share_bytes=1000) as calls:
        x.sin(), x.cos()
        assert (calls.made_bytes, tracker.live_bytes) == (800, 0)
        kept = x.exp()
        assert tracker.live_bytes == 1200
        more = x.neg()
        assert tracker.live_bytes == 1600
        del more
        assert tracker.live_bytes == 1200
    calls.tell()  # it has told
    assert tracker.live_bytes == 1200
    assert kept.numel() == 100


def test_all_that_one_call_gives_is_in_the_sum() -> None:
    tracker = LiveBytes(CPU)
    with CallWatcher(WriteWatcher(), tracker, share_bytes=100):
        parts = torch.eye(10).svd()
    assert tracker.live_bytes == 400 + sum(part.nbytes for part in parts)


def test_below_the_share_the_sum_is_told_at_the_end() -> None:
    tracker = LiveBytes(CPU)
    with CallWatcher(WriteWatcher(), tracker, share_bytes=10**6) as calls:
        torch.zeros(100)
    calls.tell()
    assert tracker.live_bytes == tracker.peak_bytes == tracker.highest_bytes == 400


def test_results_that_are_views_of_what_nobody_sees_count() -> None:
    """A linear layer of a batch in three dimensions gives a view; a ReLU in place gives nothing new."""
    net = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(32, 32), nn.ReLU(inplace=True))))
    x = torch.randn(2, 50, 32)
    with LiveBytes(CPU) as exact:
        held = net(x)
    with CallWatcher(WriteWatcher()) as calls:
        net(x)
    assert exact.live_bytes / 2 < calls.made_bytes < 4 * exact.live_bytes
    assert held.grad_fn is not None


@pytest.mark.parametrize("n_steps", [30, 2000])
@pytest.mark.parametrize("share_bytes", [1, 10**9])
def test_a_call_of_many_operations_counts_as_often(n_steps: int, share_bytes: int) -> None:
    """Of all steps of an LSTM the states are given, and what is within them is kept in its graph."""
    net, xs, tracker = nn.LSTM(8, 16).double(), torch.randn(n_steps, 8).double(), LiveBytes(CPU)
    with LiveBytes(CPU) as exact:
        held = net(xs)
    with CallWatcher(WriteWatcher(), tracker, share_bytes=share_bytes) as calls:
        net(xs)
    given_bytes = calls.made_bytes
    calls.tell(len(nodes_behind([held[0]])))
    assert 2 * given_bytes < exact.live_bytes
    assert exact.live_bytes / 2 < tracker.live_bytes < 8 * exact.live_bytes


def test_a_prologue_that_grows_too_large_meets_the_wall() -> None:
    """Each step keeps another 80 kB: the sum passes a 16th of the budget, and what is counted from there ends it."""
    x = torch.zeros(10_000)

    def func(x: torch.Tensor) -> torch.Tensor:
        for _ in range(20):
            x = x.sin().cos()
        return x[:2]

    job = Job(Problem.of(func, (x,), 0, False), Options(mode="reverse"), CPU, Budget(1_000_000, False, ""))
    assert job.counting().by_calls
    with pytest.raises(cj.BudgetError):
        run_job(job)


class Entered(TorchDispatchMode):
    """Count how often this is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __enter__(self) -> Entered:
        self.n += 1
        return super().__enter__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_once_is_entered_until_it_was_left_without_an_exception() -> None:
    entered = Entered()
    once = FirstTime(entered)
    with pytest.raises(ZeroDivisionError), once:
        raise ZeroDivisionError
    for _ in range(3):
        with once:
            pass
    assert entered.n == 2
