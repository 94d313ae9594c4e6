"""The functions that the tests differentiate: each with its own point, all deterministic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

DTYPE = torch.float64


@dataclass(frozen=True)
class Example:
    """Hold a function and where to differentiate it."""

    name: str
    func: Callable[..., Any]
    args: tuple[Any, ...]
    argnums: int | tuple[int, ...] = 0


def examples(dtype: torch.dtype = DTYPE) -> list[Example]:
    """Return all examples, in a precision."""
    return [make(dtype) for make in _MAKERS]


def example(name: str, dtype: torch.dtype = DTYPE) -> Example:
    """Return one example."""
    return next(make(dtype) for make in _MAKERS if make.__name__ == name)


class Stateless(torch.autograd.Function):
    """Be the base of custom functions that save nothing for their derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


class CustomSine(torch.autograd.Function):
    """Be the base of sines whose derivatives have something odd about them."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        return x.sin()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)


class UNet(nn.Module):
    """Go down and up with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(4, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 2, stride=2)
        self.last = nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.middle(torch.relu(self.down(x))))
        return self.last(torch.cat([self.up(y), x], dim=1))


def mlp(dtype: torch.dtype) -> Example:
    net = _net(dtype, nn.Linear(13, 40), nn.Tanh(), nn.Linear(40, 9))
    return Example("mlp", net, (_point(dtype, 13),))


def cnn(dtype: torch.dtype) -> Example:
    net = _net(dtype, nn.Conv2d(2, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 3, 3, stride=2), nn.Flatten(0))
    return Example("cnn", net, (_point(dtype, 1, 2, 7, 7),))


def decoder(dtype: torch.dtype) -> Example:
    net = _net(dtype, nn.Linear(3, 30), nn.Softplus(), nn.Linear(30, 150))
    return Example("decoder", net, (_point(dtype, 3),))


def u_net(dtype: torch.dtype) -> Example:
    return Example("u_net", _net(dtype, UNet()), (_point(dtype, 1, 1, 8, 8),))


def transformer_layer(dtype: torch.dtype) -> Example:
    """Attend by hand: the fused kernels have no forward derivative."""
    d = 8
    weights = {name: _point(dtype, d, d) / d**0.5 for name in ("q", "k", "v", "o")}
    norm = _net(dtype, nn.LayerNorm(d))
    feed = _net(dtype, nn.Linear(d, 16), nn.GELU(), nn.Linear(16, d))

    def layer(x: torch.Tensor) -> torch.Tensor:
        q, k, v = (norm(x) @ weights[name] for name in ("q", "k", "v"))
        x = x + torch.softmax(q @ k.T / d**0.5, dim=-1) @ v @ weights["o"]
        return x + feed(norm(x))

    return Example("transformer_layer", layer, (_point(dtype, 5, d),))


def autoencoder(dtype: torch.dtype) -> Example:
    net = _net(dtype, nn.Linear(30, 20), nn.SiLU(), nn.Linear(20, 2), nn.Linear(2, 20), nn.SiLU(), nn.Linear(20, 30))
    return Example("autoencoder", net, (_point(dtype, 30),))


def parameters(dtype: torch.dtype) -> Example:
    net = _net(dtype, nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3))
    x = _point(dtype, 6, 4)

    def of_parameters(params: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.func.functional_call(net, params, (x,))

    return Example("parameters", of_parameters, (dict(net.named_parameters()),))


def several_arguments(dtype: torch.dtype) -> Example:
    def func(a: torch.Tensor, unused: str, b: torch.Tensor) -> torch.Tensor:
        return torch.outer(a, b).sin() * b.sum()

    return Example("several_arguments", func, (_point(dtype, 4), "not a tensor", _point(dtype, 3)), (2, 0))


def tree_of_outputs(dtype: torch.dtype) -> Example:
    def func(x: torch.Tensor) -> dict[str, Any]:
        return {"square": x**2, "pair": (x.sum(), [x.cumsum(-1).exp()])}

    return Example("tree_of_outputs", func, (_point(dtype, 2, 5),))


def scalar_to_scalar(dtype: torch.dtype) -> Example:
    return Example("scalar_to_scalar", lambda x: x.sin() * x, (_point(dtype),))


def unreached_output(dtype: torch.dtype) -> Example:
    constant = _point(dtype, 3)
    return Example("unreached_output", lambda x: (x.exp(), constant * 2), (_point(dtype, 4),))


def convolution_norm(dtype: torch.dtype) -> Example:
    net = _net(dtype, nn.Conv1d(3, 8, 3, groups=1), nn.BatchNorm1d(8), nn.ReLU(), nn.AdaptiveAvgPool1d(4)).eval()
    return Example("convolution_norm", net, (_point(dtype, 1, 3, 12),))


_MAKERS = (
    mlp,
    cnn,
    decoder,
    u_net,
    transformer_layer,
    autoencoder,
    parameters,
    several_arguments,
    tree_of_outputs,
    scalar_to_scalar,
    unreached_output,
    convolution_norm,
)
NAMES = tuple(make.__name__ for make in _MAKERS)


def _net(dtype: torch.dtype, *layers: nn.Module) -> nn.Sequential:
    """Return layers with weights that are the same in every run."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            bound = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.uniform_(-bound, bound, generator=generator)
    return net


def _point(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Return a point that is the same in every run."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
