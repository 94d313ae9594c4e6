"""Small and odd networks: scripted, compiled, quantised, routed, recurrent, and those with few inputs or outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.architectures import Architecture


def _mlp(*widths: int) -> nn.Sequential:
    """Return layers with tanh between them."""
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def _of(net: nn.Module, *shape: int) -> Architecture:
    """Return a network with one input."""
    return Architecture(net.eval(), (torch.randn(shape),), (net,))


def tiny_mlp() -> Architecture:
    """The first thing that anybody tries."""
    return _of(_mlp(3, 16, 2), 3)


def control_policy() -> Architecture:
    """A policy of 12 observations and 4 actions."""
    return _of(_mlp(12, 64, 64, 4), 12)


def wide_mlp() -> Architecture:
    """Three numbers of 3,000."""
    return _of(_mlp(3000, 64, 3), 3000)


def tall_mlp() -> Architecture:
    """3,000 numbers of three."""
    return _of(_mlp(3, 64, 3000), 3)


def tall_decoder() -> Architecture:
    """An image of 32 x 32 from a latent of 8."""
    net = nn.Sequential(
        nn.Linear(8, 32 * 64),
        nn.Unflatten(0, (1, 32, 8, 8)),
        nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, 2, 1),
    )
    return _of(net, 8)


def siren() -> Architecture:
    """Colours of 256 places by sines of sines."""
    layers = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 3)])

    def colours(x: torch.Tensor) -> torch.Tensor:
        for layer in layers[:-1]:
            x = torch.sin(10 * layer(x))
        return layers[-1](x).mean(0)

    return Architecture(colours, (torch.rand(256, 2),), (layers,))


def scripted() -> Architecture:
    """A network of TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _of(torch.jit.script(_mlp(20, 64, 64, 10)), 20)


def traced() -> Architecture:
    """A traced convolutional network."""
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 49, 10))
    x = torch.randn(1, 1, 14, 14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(net.eval(), x)
    return Architecture(traced, (x,), (traced,))


def compiled() -> Architecture:
    """A network that Dynamo has captured."""
    return Architecture(torch.compile(_mlp(20, 64, 64, 10), backend="eager"), (torch.randn(20),))


def fake_quantised() -> Architecture:
    """Weights and activations rounded to eight bits, with straight-through derivatives."""
    first, second = nn.Linear(32, 64), nn.Linear(64, 10)

    def net(x: torch.Tensor) -> torch.Tensor:
        rounded = lambda v: torch.fake_quantize_per_tensor_affine(v, 0.05, 0, -128, 127)  # noqa: E731 - four uses
        h = functional.linear(rounded(x), rounded(first.weight), first.bias).relu()
        return functional.linear(rounded(h), rounded(second.weight), second.bias)

    return Architecture(net, (torch.randn(32),), (first, second))


def routed() -> Architecture:
    """A mixture of eight experts, two for each of 16 tokens, looked up as libraries do."""
    gate = nn.Linear(32, 8)
    experts = nn.ModuleList(_mlp(32, 64, 32) for _ in range(8))

    def route(x: torch.Tensor) -> torch.Tensor:
        weights, chosen = gate(x).softmax(-1).topk(2, -1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(experts):
            token, place = torch.where(chosen == number)
            out = out.index_add(0, token, expert(x[token]) * weights[token, place, None])
        return out[-1]

    return Architecture(route, (torch.randn(16, 32),), (gate, experts))


def dense_mixture() -> Architecture:
    """Four experts that all see everything."""
    gate = nn.Linear(32, 4)
    experts = nn.ModuleList(_mlp(32, 64, 16) for _ in range(4))

    def mix(x: torch.Tensor) -> torch.Tensor:
        return (torch.stack([expert(x) for expert in experts], -1) * gate(x).softmax(-1)).sum(-1)

    return Architecture(mix, (torch.randn(32),), (gate, experts))


def elman() -> Architecture:
    """The last state of a plain recurrent layer."""
    net = nn.RNN(8, 32, batch_first=True)
    return Architecture(lambda x: net(x)[0][0, -1], (torch.randn(1, 20, 8),), (net,))


def lstm() -> Architecture:
    """The last state of an LSTM."""
    net = nn.LSTM(8, 32, batch_first=True)
    return Architecture(lambda x: net(x)[0][0, -1], (torch.randn(1, 20, 8),), (net,))


def gru_cell() -> Architecture:
    """A step of a recurrent cell, by its state."""
    cell, x = nn.GRUCell(16, 64), torch.randn(1, 16)
    return Architecture(lambda h: cell(x, h), (torch.randn(1, 64),), (cell,))


def state_space() -> Architecture:
    """A diagonal state space, scanned over 64 steps."""
    a, b, c = torch.rand(16) * 0.9, torch.randn(16), torch.randn(16)

    def scan(u: torch.Tensor) -> torch.Tensor:
        state, all_ = torch.zeros(16), []
        for value in u:
            state = a * state + b * value
            all_.append(torch.tanh(state @ c))
        return torch.stack(all_)

    return Architecture(scan, (torch.randn(64),))


def attention_layer() -> Architecture:
    """One encoder layer, a token's features by all of eight."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    return Architecture(lambda x: layer(x)[0, 0], (torch.randn(1, 8, 32),), (layer,))


def attention_u_net() -> Architecture:
    """A U-Net with attention at its bottom."""
    down, up = nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 3, 4, 2, 1)
    attend, norm = nn.MultiheadAttention(16, 4, batch_first=True), nn.GroupNorm(4, 16)

    def net(x: torch.Tensor) -> torch.Tensor:
        h = norm(down(x)).relu()
        tokens = h.flatten(2).mT
        return (x + up(h + attend(tokens, tokens, tokens)[0].mT.view_as(h)))[0, 0, 8]

    return Architecture(net, (torch.randn(1, 3, 16, 16),), (down, up, attend, norm))


def graph_layer() -> Architecture:
    """Messages along 200 edges between 40 nodes; the features of one node."""
    net, sources, targets = nn.Linear(16, 16), torch.randint(40, (200,)), torch.randint(40, (200,))

    def layer(x: torch.Tensor) -> torch.Tensor:
        for _ in range(2):
            x = torch.zeros_like(x).index_add(0, targets, torch.tanh(net(x))[sources])
        return x[0]

    return Architecture(layer, (torch.randn(40, 16),), (net,))


def norm_in_training() -> Architecture:
    """Batch norm that counts on, of 16 samples."""
    net = nn.Sequential(nn.Linear(10, 20), nn.BatchNorm1d(20, track_running_stats=False), nn.ReLU(), nn.Linear(20, 2))
    return Architecture(lambda x: net(x).mean(0), (torch.randn(16, 10),), (net,))


def early_exit() -> Architecture:
    """Layers until the network is sure: values decide how many."""
    layers, head = nn.ModuleList(_mlp(32, 32) for _ in range(6)), nn.Linear(32, 10)

    def net(x: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            x = torch.tanh(layer(x)) + x
            if float(head(x).softmax(-1).max()) > 0.5:
                break
        return head(x)

    return Architecture(net, (torch.randn(32),), (layers, head))


def per_sample_loss() -> Architecture:
    """Losses of 32 samples by all weights of a network."""
    net, x, y = _mlp(8, 32, 3), torch.randn(32, 8), torch.randint(3, (32,))
    weights = {name: value.detach() for name, value in net.named_parameters()}

    def losses(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(functional_call(net, weights, (x,)), y, reduction="none")

    return Architecture(losses, (weights,), (net,))


def small_loss() -> Architecture:
    """A loss by the 121 weights of a network, flat."""
    net, x, y = _mlp(4, 15, 2, 2), torch.randn(50, 4), torch.randn(50, 2)
    sizes = {name: value.shape for name, value in net.named_parameters()}

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([size.numel() for size in sizes.values()])
        weights = {name: part.view(size) for (name, size), part in zip(sizes.items(), parts)}
        return functional.mse_loss(functional_call(net, weights, (x,)), y)

    return Architecture(loss, (0.3 * torch.randn(sum(size.numel() for size in sizes.values())),), (net,))


def energy_model() -> Architecture:
    """The energy of 64 numbers by a network."""
    net = _mlp(64, 128, 1)
    return Architecture(lambda x: net(x)[0], (torch.randn(64),), (net,))


JACOBIANS: tuple[Callable[[], Architecture], ...] = (
    tiny_mlp,
    control_policy,
    wide_mlp,
    tall_mlp,
    tall_decoder,
    siren,
    scripted,
    traced,
    compiled,
    fake_quantised,
    routed,
    dense_mixture,
    elman,
    lstm,
    gru_cell,
    state_space,
    attention_layer,
    attention_u_net,
    graph_layer,
    norm_in_training,
    early_exit,
    per_sample_loss,
)
HESSIANS: tuple[Callable[[], Architecture], ...] = (small_loss, energy_model)
