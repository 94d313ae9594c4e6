"""Two threads that compute Jacobians of one module: each is right, and the module is left as found."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj
from chunkjac._problem.kernels import plain_kernels

D = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")


def at_once(work: Callable[[int], None], n_threads: int = 2) -> None:
    """Run work in threads that begin together; raise what any of them raised."""
    errors: list[BaseException] = []
    gate = threading.Barrier(n_threads)

    def run(number: int) -> None:
        gate.wait()
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("options", [{}, {"max_memory": "8MiB"}])
@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_a_module_in_train_mode_in_two_threads(mode: str, options: dict[str, Any]) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).to(D).train()
    points = [torch.randn(6, 3, dtype=D) for _ in range(2)]
    net(points[0])
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wanted = [cj.jacobian(net, x, mode="reverse") for x in points]

    def work(number: int) -> None:
        for _ in range(6):
            found = cj.jacobian(net, points[number], mode=mode, **options)
            assert torch.allclose(found, wanted[number], atol=1e-6)

    at_once(work)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_function_that_waits_between_its_writes_keeps_others_out() -> None:
    """The thread that writes first puts back what was there, and the other one finds that."""
    counter, inside, goes_on = torch.zeros(3, dtype=D), threading.Event(), threading.Event()
    seen: list[float] = []

    def func(x: torch.Tensor) -> torch.Tensor:
        counter.add_(1)
        seen.append(float(counter[0]))
        inside.set()
        goes_on.wait(10)
        return x.sin()

    def work(number: int) -> None:
        if number:
            inside.wait(10)
            threading.Timer(0.2, goes_on.set).start()
        cj.jacobian(func, torch.ones(3, dtype=D), mode="reverse")

    at_once(work)
    assert not counter.any()
    assert max(seen) == len(seen) / 2  # each evaluates it as often, one after the other


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_one_plan_in_two_threads(mode: str) -> None:
    net = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 10)).to(D)
    points = [torch.randn(6, dtype=D) for _ in range(2)]
    wanted = [torch.func.jacrev(net)(x) for x in points]
    plan = cj.plan(net, points[0], mode=mode)
    for _ in range(3):
        plan.run(points[0])

    def work(number: int) -> None:
        for _ in range(10):
            assert torch.allclose(plan.run(points[number]), wanted[number], atol=1e-6)

    at_once(work)


def switches() -> tuple[bool, ...]:
    """Return which fused kernels are on."""
    own = torch._C
    return own._get_mkldnn_enabled(), own._get_flash_sdp_enabled(), torch.backends.mha.get_fastpath_enabled()


def test_fused_kernels_are_on_again_when_the_last_user_of_plain_ones_has_left() -> None:
    """The switches are the process's: who comes second finds them off, and must not set back that."""
    before = switches()
    assert any(before)
    first, second = plain_kernels(), plain_kernels()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(switches())
    second.__exit__(None, None, None)
    assert switches() == before
