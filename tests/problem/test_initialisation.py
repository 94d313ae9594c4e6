"""What a function makes of itself in its first call is there afterwards, wholly, and the Jacobian is that of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import chunkjac as cj

D = torch.float64
MODES = ("reverse", "forward", "finite-difference", "auto")
OPTIONS: tuple[dict[str, Any], ...] = ({}, {"return_report": True}, {"max_memory": "32MiB"})
WRITES = ("copy", "data.copy", "data=")
FLAGS = ("attribute", "attribute first", "buffer", "new buffer", "object", "list", "dict")
pytestmark = pytest.mark.filterwarnings("ignore::chunkjac.RungWarning")


class ActNorm(nn.Module):
    """Take the scale from the first batch, as in flows (Glow, normflows)."""

    def __init__(self, write: str, flag: str) -> None:
        super().__init__()
        self.s = nn.Parameter(torch.zeros(1, 4, dtype=D))
        self.register_buffer("flag", torch.tensor(0.0, dtype=D))
        self.write, self.how = write, flag
        self.done, self.state, self.calls, self.known = False, SimpleNamespace(done=False), list[int](), {"done": False}

    @property
    def believes(self) -> bool:
        return bool(self.done or self.flag > 0 or self.state.done or self.calls or self.known["done"])

    def begin(self) -> None:
        if self.how.startswith("attribute"):
            self.done = True
        elif self.how == "buffer":
            self.flag.fill_(1.0)
        elif self.how == "new buffer":
            self.flag = torch.tensor(1.0, dtype=D)
        elif self.how == "object":
            self.state.done = True
        elif self.how == "list":
            self.calls.append(1)
        else:
            self.known["done"] = True

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if not self.believes:
            if self.how == "attribute first":
                self.begin()
            init = -torch.log(z.detach().std(dim=0, keepdim=True) + 1e-6)
            with torch.no_grad():
                if self.write == "copy":
                    self.s.copy_(init)
                elif self.write == "data.copy":
                    self.s.data.copy_(init)
                else:
                    self.s.data = init
            if self.how != "attribute first":
                self.begin()
        return torch.tanh(z * torch.exp(self.s))


def point() -> torch.Tensor:
    return 3 * torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(0))


def check(net: Any, fresh: Any, found: Any, x: torch.Tensor) -> None:
    """Compare with what a plain first call makes of another like it."""
    fresh(x)
    wanted = torch.autograd.functional.jacobian(fresh, x)
    jacobian = found[0] if isinstance(found, tuple) else found
    assert torch.allclose(jacobian, wanted, atol=1e-7)
    assert torch.equal(net(x / 2), fresh(x / 2))
    assert all(torch.equal(net.state_dict()[name], value) for name, value in fresh.state_dict().items())
    assert all(type(tensor.data) is torch.Tensor and tensor.data_ptr() for tensor in net.parameters())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("flag", FLAGS)
def test_a_module_that_takes_its_scale_from_the_first_batch(write: str, flag: str, options: dict[str, Any]) -> None:
    for mode in MODES:
        net, x = ActNorm(write, flag), point()
        found = cj.jacobian(net, x, mode=mode, **options)
        check(net, ActNorm(write, flag), found, x)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("flag", ["attribute", "attribute first", "buffer", "new buffer"])
def test_a_plan_of_such_a_module(write: str, flag: str) -> None:
    for mode in MODES:
        net, x = ActNorm(write, flag), point()
        plan = cj.plan(net, x, mode=mode)
        found = [plan.run() for _ in range(3)][-1]
        check(net, ActNorm(write, flag), found, x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.LazyLinear(3, dtype=D),
        lambda: nn.Sequential(nn.LazyLinear(5, dtype=D), nn.Tanh(), nn.LazyLinear(2, dtype=D)),
        lambda: nn.Sequential(nn.LazyBatchNorm1d(dtype=D), nn.Linear(4, 2, dtype=D)),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_lazy_modules_get_their_parameters(make: Callable[[], nn.Module], mode: str) -> None:
    x = point()
    for call in (cj.jacobian, lambda net, x, **options: cj.plan(net, x, **options).run(), cj.gram):
        net = make()
        call(net, x, mode=mode)
        assert not any(isinstance(p, nn.parameter.UninitializedParameter) for p in net.parameters())
        wanted = torch.autograd.functional.jacobian(net.eval(), x)
        assert torch.allclose(cj.jacobian(net, x, mode=mode), wanted, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_what_a_module_caches_is_no_tensor_of_a_transform(mode: str, options: dict[str, Any]) -> None:
    class Caching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.last, self.places = x.cos(), torch.arange(4.0)
            return x.sin()

    net, x = Caching(), point()
    cj.jacobian(net, x, mode=mode, chunk_size=3, **options)
    if mode != "finite-difference":  # whose last evaluation was elsewhere
        assert torch.equal(net.last.detach(), x.cos())
    assert net.last.data_ptr()
    assert net.places.data_ptr()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_memory_that_the_function_gives_back_is_not_written_to(mode: str, options: dict[str, Any]) -> None:
    weight = torch.zeros(1 << 10, dtype=D)
    weight.untyped_storage().resize_(0)  # as parameters are that are not gathered

    def func(x: torch.Tensor) -> torch.Tensor:
        weight.untyped_storage().resize_(8 << 10)
        weight.fill_(2.0)
        y = x * weight[: x.numel()].clone()
        weight.untyped_storage().resize_(0)
        return y

    found = cj.jacobian(func, torch.ones(5, dtype=D), mode=mode, **options)
    jacobian = found[0] if isinstance(found, tuple) else found
    assert torch.allclose(jacobian, 2 * torch.eye(5, dtype=D), atol=1e-7)
    assert not weight.untyped_storage().nbytes()


@pytest.mark.parametrize("mode", ["reverse", "forward", "finite-difference"])
def test_data_that_each_call_replaces_is_given_back(mode: str) -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.full((4,), 3.0, dtype=D))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.w.data = 0.5 * self.w.data
            return x.sin()

    for options in OPTIONS:
        net, x = Clipped(), point()
        cj.jacobian(net, x, mode=mode, **options)
        assert torch.equal(net.w.data, torch.full((4,), 3.0, dtype=D))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mode", MODES)
def test_gradients_and_parameters_that_are_set_are_no_tensors_of_a_transform(mode: str, options: Any) -> None:
    class Setting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = (nn.Parameter(torch.ones(4, dtype=D)) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.v = nn.Parameter(self.v.detach() * 1.0)
            self.w.grad = x[0] * 2
            return x * self.w.grad * self.v

    net, x = Setting(), point()
    v = net.v
    found = cj.jacobian(net, x, mode=mode, chunk_size=3, **options)
    jacobian = found[0] if isinstance(found, tuple) else found
    assert torch.allclose(jacobian, torch.func.jacfwd(lambda x: x * x[0] * 2)(x), atol=1e-6)
    assert net.v is v
    assert net.w.grad is None or torch.isfinite(net.w.grad.detach() + 1).all()
    assert net.w.grad is None or net.w.grad.data_ptr()
