"""Backward passes of real Fourier transforms, by half a spectrum: against torch.func, and where no rule applies."""

from __future__ import annotations

import pytest
import torch

import chunkjac as cj
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._problem.problem import Problem
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.graph.step_recorder import recorded_step
from chunkjac._programs.passes.real_transforms import real_part, with_real_transforms
from chunkjac._programs.tracing import trace_of


@pytest.mark.parametrize("size", [2, 3, 8, 9])
@pytest.mark.parametrize("is_forward", [True, False])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_theorem(size: int, is_forward: bool, dim: int) -> None:
    half = torch.randn(5, size // 2 + 1, dtype=torch.complex128).movedim(1, dim)
    padded = half.new_zeros((5, size) if dim else (size, 5))
    padded.narrow(dim, 0, size // 2 + 1).copy_(half)
    expected = torch.ops.aten._fft_c2c(padded, [dim], 1, is_forward).real
    torch.testing.assert_close(real_part(half, dim, 1, size, is_forward), expected)


@pytest.mark.parametrize("norm", ["backward", "ortho", "forward"])
@pytest.mark.parametrize("dim", [0, -1])
@pytest.mark.parametrize("size", [8, 9])
def test_a_spectral_layer(norm: str, dim: int, size: int) -> None:
    weight = torch.randn(size, size, dtype=torch.complex128)

    def func(x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft(x, dim=dim, norm=norm)
        return torch.fft.irfft(spectrum * weight[: spectrum.shape[0], : spectrum.shape[1]], n=size, dim=dim).sin()

    x = torch.randn(size, size, dtype=torch.float64)
    seed = (torch.ones_like(x),)
    mode = Reverse(Problem.of(func, (x,), 0, has_aux=False))
    step = recorded_step(lambda: mode.apply(seed), seed)
    graph = trace_of(step.graph, seed, step.script).graph
    assert sum(node.func is real_part for node in graph.nodes) == 1
    assert not any(node.func is torch.ops.aten._fft_c2c.default for node in graph.nodes)
    plan, expected = cj.plan(func, x, mode="reverse"), torch.func.jacrev(func)(x)
    for _ in range(3):
        torch.testing.assert_close(plan.run(), expected)


@pytest.mark.parametrize("which", ["half", "transform"])
def test_what_is_written_to_in_between_stays(which: str) -> None:
    aten, half = torch.ops.aten, torch.randn(5, dtype=torch.complex128)

    def run() -> tuple[torch.Tensor]:
        own = half * 2
        padded = own.new_zeros(8)
        padded[:5].copy_(own)
        if which == "half":
            own[1:2].mul_(3)
        made = aten._fft_c2c(padded, [0], 0, False)
        if which == "transform":
            made[1:2].mul_(3)
        return (torch.view_as_real(made).select(1, 0),)

    graph, _ = recorded(run, (half,), (half,), {})
    assert not any(node.func is real_part for node in with_real_transforms(graph).nodes)


def test_complex_transforms_stay() -> None:
    def func(x: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft(x).imag + torch.fft.rfft2(x.view(2, 4)).abs().sum()

    x = torch.randn(8, dtype=torch.float64)
    plan, expected = cj.plan(func, x, mode="reverse"), torch.func.jacrev(func)(x)
    for _ in range(3):
        torch.testing.assert_close(plan.run(), expected)
