"""The demonstration: a small classifier's saliency, then a large network's Jacobian."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import jvp

import chunkjac as cj
from chunkjac._units import format_bytes

_SEED = 0


def run_demo(max_memory: int | str | None, picture: Path, train_s: float) -> None:
    """Run it, and print what happens.

    Args:
        max_memory: The budget of the large Jacobian.
        picture: Where to draw the saliency maps.
        train_s: Seconds to train the classifier.
    """
    torch.manual_seed(_SEED)
    images, labels = _load_images()
    print(f"Training a convolutional classifier on {len(images)} digits of 8 x 8 pixels for {train_s:g} s.")
    classifier, accuracy = _train(images, labels, train_s)
    print(f"It is right on {accuracy:.1%} of digits that it has not seen.\n")

    print("(a) The Jacobian of its 10 logits with respect to the 64 pixels of a real image.")
    jacobian, report = cj.jacobian(classifier, images[:1], return_report=True)
    print(report)
    _check(classifier, images[:1], jacobian)
    _draw(picture, classifier, images, labels)
    print(f"Saliency maps are drawn in {picture}.\n")

    network, x = ResNet18Features().eval(), torch.randn(1, 3, 96, 96)
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    print(f"(b) The Jacobian of the 512 features of a ResNet-18 ({n_parameters / 1e6:.1f} M parameters)")
    print(f"    with respect to an image of 3 x 96 x 96, holding at most {max_memory}.")
    jacobian, report = cj.jacobian(network, x, max_memory=max_memory, progress=True, return_report=True)
    print(report)
    _check(network, x, jacobian)
    print("In one chunk, the same would hold:")
    for mode, rival in (("reverse", "torch.func.jacrev"), ("forward", "torch.func.jacfwd")):
        whole = cj.plan(network, x, mode=mode, chunk_size=10**9, max_memory=2**60)
        print(f"  {format_bytes(whole.predicted_peak_bytes):>10}  in {mode} mode; {rival} holds its blocks beside that")


class ResidualBlock(nn.Module):
    """Add two convolutions to a shortcut.

    Source:
        He et al., Deep Residual Learning for Image Recognition, 2016, figure 2 and table 1.
    """

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(),
            nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(n_out),
        )
        projection = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))
        self.shortcut = nn.Identity() if (n_in, stride) == (n_out, 1) else projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add both paths."""
        return torch.relu(self.convolutions(x) + self.shortcut(x))


class ResNet18Features(nn.Sequential):
    """Be a ResNet-18 without its last layer: 11.2 M parameters, 512 features."""

    def __init__(self) -> None:
        widths = (64, 64, 128, 256, 512)
        stages = [
            layer
            for i, (n_in, n_out) in enumerate(pairwise(widths))
            for layer in (ResidualBlock(n_in, n_out, 1 if i == 0 else 2), ResidualBlock(n_out, n_out, 1))
        ]
        stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        super().__init__(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(0))


def _load_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits that come with scikit-learn, shuffled."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(_SEED))
    images = torch.as_tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    return images[order], torch.as_tensor(digits.target)[order]


def _train(images: torch.Tensor, labels: torch.Tensor, train_s: float) -> tuple[nn.Module, float]:
    """Return a classifier of one image, and its accuracy on the fifth that is held out."""
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Flatten(1),
        nn.Linear(64 * 16, 10),
    )
    n_held_out = len(images) // 5
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    end_s = time.perf_counter() + train_s
    while time.perf_counter() < end_s:
        batch = torch.randint(n_held_out, len(images), (128,))
        loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    right = network(images[:n_held_out]).argmax(1) == labels[:n_held_out]
    return network.eval(), right.float().mean().item()


def _check(func: nn.Module, x: torch.Tensor, jacobian: torch.Tensor) -> None:
    """Compare the Jacobian along a random direction with a derivative taken in that direction."""
    v = torch.randn_like(x)
    with torch.no_grad():
        expected = jvp(func, (x,), (v,))[1]
    found = torch.tensordot(jacobian, v, dims=x.dim())
    error = (found - expected).norm() / expected.norm()
    print(f"Along a random direction v, J @ v differs from the jvp by {error:.1e} of its size.")


def _draw(path: Path, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """Draw one image of each digit, and how each pixel moves the logit of its label."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 10, figsize=(12, 2.8))
    for digit in range(10):
        image = images[labels == digit][:1]
        saliency = cj.jacobian(classifier, image)[0, digit, 0, 0]
        limit = saliency.abs().max().item()
        _picture(axes[0, digit], image[0, 0], cmap="gray_r")
        _picture(axes[1, digit], saliency, cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[0, 0].set_ylabel("digit")
    axes[1, 0].set_ylabel("d logit\nd pixel")
    figure.suptitle("What raises (red) and lowers (blue) the logit of each digit")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _picture(axis: Any, values: torch.Tensor, **options: Any) -> None:
    """Show an array without ticks."""
    axis.imshow(values.numpy(), **options)
    axis.set_xticks([])
    axis.set_yticks([])
