"""The same functions in PyTorch and in JAX, with the same weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.architectures import Spectral, runge_kutta


@dataclass(frozen=True, slots=True)
class Pair:
    """Hold a function in both libraries, and the point.

    Attributes:
        func: In PyTorch.
        in_jax: In JAX, with the same weights.
        x: The point.
    """

    func: Callable[[torch.Tensor], torch.Tensor]
    in_jax: Callable[[Any], Any]
    x: torch.Tensor


def pairs(*, quick: bool) -> dict[str, Pair]:
    """Return all functions."""
    torch.manual_seed(0)
    made = {
        "mlp": lambda: mlp(1000, 2000, 500),
        "cnn": lambda: cnn(16, 32),
        "transformer": lambda: transformer(64 if quick else 128, 2 if quick else 4, 16 if quick else 32),
        "neural_ode": lambda: neural_ode(256, 512, 10),
        "fft_layer": lambda: fft_layer(16, 512),
        "lorenz_96": lambda: lorenz_96(500 if quick else 2000, 5),
    }
    return {name: make() for name, make in made.items()}


def mlp(n_in: int, n_hidden: int, n_out: int) -> Pair:
    net = nn.Sequential(nn.Linear(n_in, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out))
    first, last = _linear(net[0]), _linear(net[2])
    return Pair(net, lambda x: last(_gelu(first(x))), torch.randn(n_in))


def cnn(width: int, side: int) -> Pair:
    """Return two convolutions, the second strided."""
    convs = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 8, 3, stride=4, padding=1)
    net = nn.Sequential(convs[0], nn.ReLU(), convs[1])
    first, second = (_convolution(conv) for conv in convs)
    return Pair(net, lambda x: second(jax.nn.relu(first(x))), torch.randn(1, 3, side, side))


class Block(nn.Module):
    """Attend to what came before, then feed forward: GPT-2's block, its attention and its GELU written out."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n_tokens, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(n_tokens, 3, self.n_heads, -1).permute(1, 2, 0, 3)
        scores = q @ k.transpose(-1, -2) / (width / self.n_heads) ** 0.5
        later = torch.ones(n_tokens, n_tokens, dtype=torch.bool, device=x.device).triu(1)
        attended = scores.masked_fill(later, float("-inf")).softmax(-1) @ v
        x = x + self.out(attended.transpose(0, 1).reshape(n_tokens, width))
        return x + self.down(functional.gelu(self.up(self.norms[1](x)), approximate="tanh"))


def transformer(width: int, n_layers: int, n_tokens: int) -> Pair:
    """Return blocks of GPT-2, and the last token's features."""
    blocks = [Block(width, width // 32) for _ in range(n_layers)]
    net = nn.Sequential(*blocks)
    in_jax = [_block(block) for block in blocks]

    def last_token(x: Any) -> Any:
        for block in in_jax:
            x = block(x)
        return x[-1]

    return Pair(lambda x: net(x)[-1], last_token, torch.randn(n_tokens, width))


def neural_ode(n: int, n_hidden: int, n_steps: int) -> Pair:
    field = nn.Sequential(nn.Linear(n, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n))
    first, last = _linear(field[0]), _linear(field[2])
    return Pair(
        lambda x: runge_kutta(field, x, 1 / n_steps, n_steps),
        lambda x: runge_kutta(lambda y: last(jnp.tanh(first(y))), x, 1 / n_steps, n_steps),
        torch.randn(n),
    )


def fft_layer(width: int, n: int) -> Pair:
    """Return a layer of a Fourier neural operator between two pointwise maps."""
    spectral = Spectral(width, n // 16)
    lift, skip, project = nn.Conv1d(1, width, 1), nn.Conv1d(width, width, 1), nn.Conv1d(width, 1, 1)
    weight = _array(spectral.weight)
    maps = [_pointwise_map(conv) for conv in (lift, skip, project)]

    def func(x: torch.Tensor) -> torch.Tensor:
        y = lift(x)
        return project(functional.gelu(spectral(y) + skip(y)))

    def in_jax(x: Any) -> Any:
        y = maps[0](x)
        low = jnp.fft.rfft(y)[..., : n // 16]
        mixed = jnp.fft.irfft(jnp.einsum("bif,iof->bof", low, weight), n=n)
        return maps[2](_gelu(mixed + maps[1](y)))

    return Pair(func, in_jax, torch.randn(1, 1, n))


def lorenz_96(n: int, n_steps: int) -> Pair:
    def by(roll: Callable[[Any, int], Any]) -> Callable[[Any], Any]:
        def field(x: Any) -> Any:
            return (roll(x, -1) - roll(x, 2)) * roll(x, 1) - x + 8.0

        return lambda x: runge_kutta(field, x, 0.01, n_steps)

    return Pair(by(torch.roll), by(jnp.roll), 8 + torch.randn(n))


def _array(x: torch.Tensor) -> Any:
    return jnp.asarray(np.asarray(x.detach()))


def _gelu(x: Any) -> Any:
    return jax.nn.gelu(x, approximate=False)


def _linear(layer: nn.Linear) -> Callable[[Any], Any]:
    weight, bias = _array(layer.weight), _array(layer.bias)
    return lambda x: x @ weight.T + bias


def _pointwise_map(conv: nn.Conv1d) -> Callable[[Any], Any]:
    weight, bias = _array(conv.weight)[:, :, 0], _array(conv.bias)
    return lambda x: jnp.einsum("oi,bin->bon", weight, x) + bias[:, None]


def _convolution(conv: nn.Conv2d) -> Callable[[Any], Any]:
    weight, bias = _array(conv.weight), _array(conv.bias)
    padding = [(n, n) for n in conv.padding]
    return lambda x: (
        jax.lax.conv_general_dilated(x, weight, conv.stride, padding, dimension_numbers=("NCHW", "OIHW", "NCHW"))
        + bias[:, None, None]
    )


def _norm(layer: nn.LayerNorm) -> Callable[[Any], Any]:
    weight, bias = _array(layer.weight), _array(layer.bias)

    def normalise(x: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + layer.eps) * weight + bias

    return normalise


def _block(block: Block) -> Callable[[Any], Any]:
    norms = [_norm(norm) for norm in block.norms]
    qkv, out, up, down = (_linear(layer) for layer in (block.qkv, block.out, block.up, block.down))
    n_heads = block.n_heads

    def forward(x: Any) -> Any:
        n_tokens, width = x.shape
        q, k, v = qkv(norms[0](x)).reshape(n_tokens, 3, n_heads, -1).transpose(1, 2, 0, 3)
        scores = q @ k.transpose(0, 2, 1) / (width / n_heads) ** 0.5
        later = jnp.triu(jnp.ones((n_tokens, n_tokens), bool), 1)
        attended = jax.nn.softmax(jnp.where(later, -jnp.inf, scores), -1) @ v
        x = x + out(attended.transpose(1, 0, 2).reshape(n_tokens, width))
        return x + down(jax.nn.gelu(up(norms[1](x)), approximate=True))

    return forward
