"""What the paper compares: its way of doing it, its network, its errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn


def all_at_once(
    function: Callable[..., torch.Tensor], args: Sequence[torch.Tensor], number: int = 0, delta: float = 1e-5
) -> torch.Tensor:
    """Compute a Jacobian in the paper's way, with the batch in front."""
    batch = _copies(args[number], delta)
    rows = [x.repeat(len(batch), *(1,) * x.dim()) for x in args]
    rows[number] = batch
    values = function(*rows)
    by_input = (values[1:] - values[0]) / delta
    n_dims = args[number].dim()
    by_input = by_input.reshape(*args[number].shape, *values.shape[1:])
    return by_input.permute(*range(n_dims, by_input.dim()), *range(n_dims))


def _copies(x: torch.Tensor, delta: float) -> torch.Tensor:
    """Return a point and its n neighbours; identity, repetition and sum are alive together, as in the paper."""
    steps = torch.eye(x.numel(), dtype=x.dtype) * delta
    repeated = x.repeat(x.numel(), *(1,) * x.dim())
    moved = repeated + steps.reshape(repeated.shape)
    return torch.cat([x.unsqueeze(0), moved])


def network(n: int, n_hidden: int, n_layers: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return the paper's network: as many inputs as outputs, hidden layers of one width."""
    widths = [n, *[n_hidden] * n_layers, n]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*layers[:-1]).double()


def errors_of(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Return mean and max error, and spoil what was found: there may be no room for a second one.

    Args:
        found: The Jacobian.
        expected: The same, or its diagonal if it has zeros elsewhere.
    """
    if expected.dim() == 1:
        n = expected.numel()
        found.view(n, n).diagonal().sub_(expected)
    else:
        found.sub_(expected)
    return found.abs_().mean().item(), found.max().item()
