"""Functions that are written by hand: networks, layers and physics, each in any size."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks.architectures import Architecture, Residual, Scatter, Spectral, UNet, runge_kutta


def mlp(n_in: int, n_hidden: int, n_out: int) -> Architecture:
    layers = nn.Linear(n_in, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_hidden), nn.GELU(), nn.Linear(n_hidden, n_out)
    return _of(nn.Sequential(*layers), n_in)


def cnn(width: int, side: int, n_out: int) -> Architecture:
    """Convolutions with batch normalisation in eval mode, then features of the image."""
    first = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.SiLU()
    second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.SiLU(), nn.MaxPool2d(2)
    n_features = 2 * width * (side // 4) ** 2
    return _of(nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(n_features, n_out)), 1, 3, side, side)


def image_to_image(width: int, side: int) -> Architecture:
    """Two convolutions, strided: as many rows as pixels of a smaller image."""
    layers = nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3, stride=4, padding=1)
    return _of(nn.Sequential(*layers), 1, 3, side, side)


def u_net(side: int) -> Architecture:
    """As many rows as columns."""
    return _of(UNet(), 1, 1, side, side)


def transposed_decoder(n_in: int, width: int, side: int) -> Architecture:
    """From a vector to an image: far more rows than columns."""
    start = (
        nn.Linear(n_in, 2 * width * (side // 8) ** 2),
        nn.Unflatten(-1, (2 * width, side // 8, side // 8)),
        nn.SiLU(),
    )
    up = nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.SiLU(), nn.ConvTranspose2d(width, width // 2, 4, 2, 1)
    return _of(nn.Sequential(*start, *up, nn.SiLU(), nn.ConvTranspose2d(width // 2, 3, 4, 2, 1)), 1, n_in)


def lstm(n_in: int, n_hidden: int, n_steps: int) -> Architecture:
    net = nn.LSTM(n_in, n_hidden, num_layers=2, batch_first=True)
    return Architecture(lambda x: net(x)[0][:, -1], (torch.randn(1, n_steps, n_in),), (net.eval(),))


def gru_cell_loop(n_in: int, n_hidden: int, n_steps: int) -> Architecture:
    """Written out step by step, as recurrent networks of one's own are."""
    cell = nn.GRUCell(n_in, n_hidden)

    def unroll(xs: torch.Tensor) -> torch.Tensor:
        state = xs.new_zeros(1, n_hidden)
        for x in xs:
            state = cell(x, state)
        return state

    return Architecture(unroll, (torch.randn(n_steps, 1, n_in),), (cell,))


def neural_ode(n: int, n_hidden: int, n_steps: int) -> Architecture:
    field = nn.Sequential(nn.Linear(n, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n))
    return Architecture(lambda x: runge_kutta(field, x, 1 / n_steps, n_steps), (torch.randn(n),), (field,))


def fft_layer(width: int, n: int) -> Architecture:
    """A Fourier neural operator of two blocks in one dimension."""

    def block() -> nn.Module:
        return Residual(Spectral(width, n // 16), shortcut=nn.Conv1d(width, width, 1))

    net = nn.Sequential(nn.Conv1d(1, width, 1), block(), nn.GELU(), block(), nn.GELU(), nn.Conv1d(width, 1, 1))
    return _of(net, 1, 1, n)


def graph_network(n_nodes: int, n_in: int, n_hidden: int, n_out: int) -> Architecture:
    """Two layers of messages along six edges a node."""
    layers = Scatter(n_nodes, 6 * n_nodes, n_in, n_hidden), nn.ReLU(), Scatter(n_nodes, 6 * n_nodes, n_hidden, n_out)
    return _of(nn.Sequential(*layers), n_nodes, n_in)


def lorenz_96(n: int, n_steps: int) -> Architecture:
    """A chaotic flow, as data assimilation linearises it: no parameters at all."""

    def field(x: torch.Tensor) -> torch.Tensor:
        return (x.roll(-1) - x.roll(2)) * x.roll(1) - x + 8.0

    return Architecture(lambda x: runge_kutta(field, x, 0.01, n_steps), (8 + torch.randn(n),))


def reaction_diffusion(side: int, n_steps: int) -> Architecture:
    """Explicit steps of Gray and Scott's two substances on a torus."""

    def laplacian(u: torch.Tensor) -> torch.Tensor:
        return u.roll(1, -1) + u.roll(-1, -1) + u.roll(1, -2) + u.roll(-1, -2) - 4 * u

    def integrate(state: torch.Tensor) -> torch.Tensor:
        u, v = state
        for _ in range(n_steps):
            reaction = u * v * v
            u, v = (
                u + 0.16 * laplacian(u) - reaction + 0.035 * (1 - u),
                v + 0.08 * laplacian(v) + reaction - 0.095 * v,
            )
        return torch.stack([u, v])

    return Architecture(integrate, (torch.rand(2, side, side),))


def parameters_of_a_cnn(n_images: int) -> Architecture:
    """Logits of several images by all parameters: the rows of a neural tangent kernel."""
    layers = nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Flatten()
    net = nn.Sequential(*layers, nn.Linear(32 * 36, 10))
    args = ({name: parameter.detach() for name, parameter in net.named_parameters()}, torch.randn(n_images, 1, 28, 28))
    return Architecture(lambda params, x: torch.func.functional_call(net, params, (x,)), args, (net,))


def _of(net: nn.Module, *shape: int) -> Architecture:
    """Return a network with one input."""
    return Architecture(net.eval(), (torch.randn(shape),), (net,))
