"""Networks of many kinds, each with a point: what users differentiate, at a size that runs in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Architecture:
    """Hold a function and where to differentiate it; ``modules`` are what it captured."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    modules: tuple[nn.Module, ...] = ()

    @property
    def device(self) -> torch.device:
        """Return where the point is."""
        return torch.utils._pytree.tree_leaves(self.args)[0].device

    def to(self, device: torch.device) -> Architecture:
        """Move the point and the parameters."""
        for module in self.modules:
            module.to(device)
        args = torch.utils._pytree.tree_map(lambda leaf: leaf.to(device), self.args)
        return Architecture(self.func, args, self.modules)


def build(name: str) -> Architecture:
    """Return an architecture, the same in every process."""
    torch.manual_seed(0)
    return _MAKERS[name]()


def _of(net: nn.Module, *shape: int) -> Architecture:
    """Return a network with one input."""
    return Architecture(net.eval(), (torch.randn(shape),), (net,))


class Residual(nn.Module):
    """Add what a path computes to its input."""

    def __init__(self, *path: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.path = nn.Sequential(*path)
        self.shortcut = shortcut or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.path(x) + self.shortcut(x)


class ChannelNorm(nn.LayerNorm):
    """Normalise over channels, which come second."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def mlp() -> Architecture:
    layers = nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 512)
    return _of(nn.Sequential(*layers), 512)


def many_activations() -> Architecture:
    """Save more for the backward pass than small budgets hold."""
    layers = [nn.Tanh() for _ in range(40)]
    net = nn.Sequential(
        nn.Linear(64, 2**16), *layers, nn.Unflatten(-1, (64, -1)), nn.AdaptiveAvgPool1d(1), nn.Flatten()
    )
    return _of(net, 1, 64)


def cnn() -> Architecture:
    layers = nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3, stride=4, padding=1), nn.Flatten(0)
    return _of(nn.Sequential(*layers), 1, 3, 32, 32)


def cnn_in_double_precision() -> Architecture:
    """Use other kernels than in single precision: they unfold."""
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.Softplus(), nn.Conv2d(16, 4, 3, stride=2), nn.Flatten(0)
    return Architecture(net := nn.Sequential(*layers).double(), (torch.randn(1, 3, 20, 20).double(),), (net,))


def cnn_with_batch_norm() -> Architecture:
    first = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.SiLU()
    second = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64), nn.SiLU(), nn.MaxPool2d(2)
    return _of(nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64 * 64, 128)), 1, 3, 32, 32)


def resnet() -> Architecture:
    def block(n_in: int, n_out: int, stride: int) -> list[nn.Module]:
        path = (
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        shortcut = None if (n_in, stride) == (n_out, 1) else nn.Conv2d(n_in, n_out, 1, stride, bias=False)
        return [Residual(*path, shortcut=shortcut), nn.ReLU()]

    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    blocks = *block(16, 16, 1), *block(16, 32, 2), *block(32, 32, 1), *block(32, 64, 2)
    return _of(nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1, 3, 32, 32)


def convnext() -> Architecture:
    def block(width: int) -> nn.Module:
        depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        pointwise = nn.Conv2d(width, 4 * width, 1), nn.GELU(), nn.Conv2d(4 * width, width, 1)
        return Residual(depthwise, ChannelNorm(width), *pointwise)

    layers = nn.Conv2d(3, 32, 4, stride=4), block(32), block(32), nn.Conv2d(32, 64, 2, stride=2), block(64)
    return _of(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 1, 3, 32, 32)


class UNet(nn.Module):
    """Go down twice and up twice, with skips."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(64, 32, 2, stride=2)
        self.last_up = nn.ConvTranspose2d(64, 16, 2, stride=2)
        self.last = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = functional.relu(self.first(x))
        down = functional.relu(self.down(first))
        up = functional.relu(self.up(functional.relu(self.deep(down))))
        up = functional.relu(self.last_up(torch.cat([up, down], -3)))
        return self.last(torch.cat([up, first], -3))


def u_net() -> Architecture:
    return _of(UNet(), 1, 1, 32, 32)


def transposed_decoder() -> Architecture:
    start = nn.Linear(64, 64 * 16), nn.Unflatten(-1, (64, 4, 4)), nn.SiLU()
    up = nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.SiLU()
    return _of(nn.Sequential(*start, *up, nn.ConvTranspose2d(16, 3, 4, 2, 1)), 1, 64)


def transformer_encoder() -> Architecture:
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False
    )
    return _of(nn.Sequential(encoder, nn.Linear(64, 8)), 1, 32, 64)


class CausalBlock(nn.Module):
    """Attend to what came before, then feed forward."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = Residual(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.feed(x + self.out(attended.transpose(1, 2).flatten(2)))


class LastStep(nn.Module):
    """Take the last step of a sequence."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, -1]


def causal_decoder() -> Architecture:
    blocks = [CausalBlock(64, 4) for _ in range(3)]
    return _of(nn.Sequential(*blocks, nn.LayerNorm(64), LastStep(), nn.Linear(64, 300)), 1, 32, 64)


def embedding_to_logits() -> Architecture:
    """Differentiate all logits by the embeddings, as token attributions do."""
    return _of(nn.Sequential(CausalBlock(32, 2), nn.LayerNorm(32), nn.Linear(32, 200)), 1, 12, 32)


def lstm() -> Architecture:
    net = nn.LSTM(16, 64, num_layers=2, batch_first=True)
    return Architecture(lambda x: net(x)[0][:, -8:], (torch.randn(1, 64, 16),), (net,))


def gru() -> Architecture:
    net = nn.GRU(8, 64, batch_first=True)
    return Architecture(lambda x: net(x)[0][:, -8:], (torch.randn(1, 32, 8),), (net,))


def lstm_cell_loop() -> Architecture:
    cell = nn.LSTMCell(4, 64)

    def unroll(xs: torch.Tensor) -> torch.Tensor:
        state = None
        for x in xs:
            state = cell(x, state)
        return state[0]

    return Architecture(unroll, (torch.randn(64, 1, 4),), (cell,))


def neural_ode() -> Architecture:
    field = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 256))

    return Architecture(lambda x: runge_kutta(field, x, 1 / 10, 10), (torch.randn(256),), (field,))


def runge_kutta(field: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, h: float, n_steps: int) -> torch.Tensor:
    """Integrate a field by the classical method of fourth order."""
    for _ in range(n_steps):
        k1 = field(x)
        k2 = field(x + h / 2 * k1)
        k3 = field(x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + h * k3))
    return x


class Spectral(nn.Module):
    """Mix channels of the lowest frequencies."""

    def __init__(self, width: int, n_frequencies: int) -> None:
        super().__init__()
        self.n_frequencies = n_frequencies
        self.weight = nn.Parameter(torch.randn(width, width, n_frequencies, dtype=torch.cfloat) / width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = torch.fft.rfft(x)[..., : self.n_frequencies]
        mixed = torch.einsum("bif,iof->bof", low, self.weight)
        return torch.fft.irfft(mixed, n=x.shape[-1])


def fft_layer() -> Architecture:
    def block() -> nn.Module:
        return Residual(Spectral(16, 32), shortcut=nn.Conv1d(16, 16, 1))

    net = nn.Sequential(nn.Conv1d(1, 16, 1), block(), nn.GELU(), block(), nn.GELU(), nn.Conv1d(16, 1, 1))
    return _of(net, 1, 1, 512)


def parameters_of_a_cnn() -> Architecture:
    layers = nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    images = torch.randn(16, 1, 12, 12)
    # The images go along as an argument, so that they are moved to the device.
    args = ({name: parameter.detach() for name, parameter in net.named_parameters()}, images)
    return Architecture(lambda params, x: torch.func.functional_call(net, params, (x,)), args, (net,))


class Scatter(nn.Module):
    """Let each node of a random graph add what its neighbours send."""

    def __init__(self, n_nodes: int, n_edges: int, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, n_out)
        self.register_buffer("edges", torch.randint(n_nodes, (2, n_edges)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        source, target = self.edges
        y = self.linear(x)
        return torch.zeros_like(y).index_add(0, target, y[source])


def graph_by_scatter() -> Architecture:
    return _of(nn.Sequential(Scatter(150, 900, 8, 32), nn.ReLU(), Scatter(150, 900, 32, 4)), 150, 8)


def graph_by_sparse_product() -> Architecture:
    edges = torch.randint(150, (2, 900))
    adjacency = torch.sparse_coo_tensor(edges, torch.ones(900), (150, 150)).coalesce()
    first, second = nn.Linear(8, 32), nn.Linear(32, 4)

    def convolve(x: torch.Tensor, adjacency: torch.Tensor) -> torch.Tensor:
        y = torch.relu(torch.sparse.mm(adjacency, first(x)))
        return torch.sparse.mm(adjacency, second(y))

    return Architecture(convolve, (torch.randn(150, 8), adjacency), (first, second))


_MAKERS: dict[str, Callable[[], Architecture]] = {
    make.__name__: make
    for make in (
        mlp,
        many_activations,
        cnn,
        cnn_in_double_precision,
        cnn_with_batch_norm,
        resnet,
        convnext,
        u_net,
        transposed_decoder,
        transformer_encoder,
        causal_decoder,
        embedding_to_logits,
        lstm,
        gru,
        lstm_cell_loop,
        neural_ode,
        fft_layer,
        parameters_of_a_cnn,
        graph_by_scatter,
        graph_by_sparse_product,
    )
}
NAMES = tuple(_MAKERS)
