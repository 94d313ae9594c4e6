"""Small functions of statistics: processes by their hyperparameters, flows, filters, transport, finance."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from benchmarks.architectures import Architecture


def gp_likelihood() -> Architecture:
    """The evidence of a Gaussian process, by the logarithms of five lengths, a scale and a noise."""
    x, y = torch.randn(60, 5), torch.randn(60)

    def evidence(theta: torch.Tensor) -> torch.Tensor:
        a = x / theta[:5].exp()
        k = theta[5].exp() * torch.exp(-0.5 * (a[:, None] - a[None]).square().sum(-1))
        chol = torch.linalg.cholesky(k + (theta[6].exp() + 1e-3) * torch.eye(60))
        alpha = torch.cholesky_solve(y[:, None], chol)[:, 0]
        return -0.5 * y @ alpha - chol.diagonal().log().sum()

    return Architecture(evidence, (torch.zeros(7),))


def gp_mean_by_lengths() -> Architecture:
    """The mean of a Gaussian process at 200 points, by two hyperparameters: tall."""
    x, y, new = torch.rand(50, 1), torch.randn(50), torch.rand(200, 1)

    def mean(theta: torch.Tensor) -> torch.Tensor:
        kernel = lambda a, b: torch.exp(-0.5 * ((a - b.T) / theta[0].exp()).square())  # noqa: E731 - two lines of it
        return kernel(new, x) @ torch.linalg.solve(kernel(x, x) + theta[1].exp() * torch.eye(50), y)

    return Architecture(mean, (torch.tensor([-1.0, -2.0]),))


def gpytorch_matern() -> Architecture:
    """A kernel matrix of GPyTorch, by its lengths."""
    from gpytorch.kernels import MaternKernel, ScaleKernel

    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.kernel(x, x).to_dense()  # while the lengths are in place: kernels are lazy

    module, x = Matrix(), torch.randn(30, 3)
    name = "kernel.base_kernel.raw_lengthscale"
    return Architecture(lambda lengths: functional_call(module, {name: lengths}, (x,)), (torch.zeros(1, 3),), (module,))


def planar_flow() -> Architecture:
    """Eight planar layers of a normalising flow."""
    w, u, b = torch.randn(8, 20) * 0.3, torch.randn(8, 20) * 0.3, torch.randn(8)

    def flow(z: torch.Tensor) -> torch.Tensor:
        for i in range(8):
            z = z + u[i] * torch.tanh(z @ w[i] + b[i])
        return z

    return Architecture(flow, (torch.randn(20),))


def real_nvp() -> Architecture:
    """Four coupling layers of 32 numbers."""
    nets = nn.ModuleList(nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 32)) for _ in range(4))

    def flow(x: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2)
        for net in nets:
            s, t = net(a).chunk(2)
            a, b = b * torch.exp(torch.tanh(s)) + t, a
        return torch.cat([a, b])

    return Architecture(flow, (torch.randn(32),), (nets,))


def rational_spline() -> Architecture:
    """A monotone spline whose bins are looked up."""
    heights = torch.rand(64, 9).cumsum(-1)
    slopes = torch.rand(64, 9) + 0.5

    def spline(x: torch.Tensor) -> torch.Tensor:
        x = torch.sigmoid(x) * 8
        k = x.detach().long().clamp(max=7)
        at = lambda table, k: table.gather(-1, k[:, None])[:, 0]  # noqa: E731 - two lines of it
        t, y0, y1, d0, d1 = x - k, at(heights, k), at(heights, k + 1), at(slopes, k), at(slopes, k + 1)
        s = y1 - y0
        return y0 + s * (s * t**2 + d0 * t * (1 - t)) / (s + (d1 + d0 - 2 * s) * t * (1 - t))

    return Architecture(spline, (torch.randn(64),))


def kalman_filter() -> Architecture:
    """The likelihood of 30 observations, by the entries of a transition matrix."""
    y, eye = torch.randn(30, 3), torch.eye(3)

    def likelihood(a: torch.Tensor) -> torch.Tensor:
        mean, cov, total = torch.zeros(3), eye, torch.zeros(())
        for seen in y:
            mean, cov = a @ mean, a @ cov @ a.T + 0.1 * eye
            s = cov + 0.5 * eye
            off = seen - mean
            total = total - 0.5 * (off @ torch.linalg.solve(s, off) + torch.logdet(s))
            gain = torch.linalg.solve(s, cov).T
            mean, cov = mean + gain @ off, (eye - gain) @ cov
        return total

    return Architecture(likelihood, (0.5 * torch.eye(3) + 0.05 * torch.randn(3, 3),))


def hidden_markov() -> Architecture:
    """Filtered beliefs of a hidden Markov model, by its transitions."""
    seen = torch.randn(40, 6)

    def beliefs(logits: torch.Tensor) -> torch.Tensor:
        steps, belief, all_ = logits.log_softmax(-1), torch.zeros(6), []
        for evidence in seen:
            belief = (torch.logsumexp(belief[:, None] + steps, 0) + evidence).log_softmax(-1)
            all_.append(belief)
        return torch.stack(all_)

    return Architecture(beliefs, (torch.randn(6, 6),))


def sinkhorn() -> Architecture:
    """An entropic transport plan after 30 turns, by the points of one side."""
    y = torch.randn(25, 2)

    def plan(x: torch.Tensor) -> torch.Tensor:
        cost = (x[:, None] - y[None]).square().sum(-1)
        f, g = torch.zeros(20), torch.zeros(25)
        for _ in range(30):
            f = -0.5 * torch.logsumexp((g - cost) / 0.5, 1)
            g = -0.5 * torch.logsumexp((f[:, None] - cost) / 0.5, 0)
        return (f[:, None] + g - cost).div(0.5).exp().sum(1)

    return Architecture(plan, (torch.randn(20, 2),))


def black_scholes() -> Architecture:
    """Prices of 500 options by five numbers: tall."""
    strikes = torch.linspace(50, 150, 500)

    def price(p: torch.Tensor) -> torch.Tensor:
        spot, rate, vol, time, dividend = p
        d1 = ((spot / strikes).log() + (rate - dividend + vol**2 / 2) * time) / (vol * time.sqrt())
        cdf = lambda z: 0.5 * (1 + torch.erf(z / math.sqrt(2)))  # noqa: E731 - two uses
        return spot * cdf(d1) - strikes * torch.exp(-rate * time) * cdf(d1 - vol * time.sqrt())

    return Architecture(price, (torch.tensor([100.0, 0.03, 0.2, 1.0, 0.01]),))


def logistic_regression() -> Architecture:
    """The Hessian of a loss, by 50 weights."""
    x, y = torch.randn(300, 50), torch.randint(0, 2, (300,)).float()
    return Architecture(lambda w: functional.binary_cross_entropy_with_logits(x @ w, y), (torch.randn(50),))


def rosenbrock() -> Architecture:
    """The classic valley, in 40 dimensions."""
    return Architecture(lambda x: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum(), (torch.randn(40),))


def soft_dtw() -> Architecture:
    """The soft distance of two series of 14 numbers, cell by cell."""
    y = torch.randn(14)

    def distance(x: torch.Tensor) -> torch.Tensor:
        cost = (x[:, None] - y[None]).square()
        inf = torch.tensor(1e6)
        row = [torch.zeros(()), *[inf] * 14]
        for i in range(14):
            new = [inf]
            for j in range(14):
                new.append(cost[i, j] - torch.logsumexp(-torch.stack([row[j], row[j + 1], new[j]]), 0))
            row = new
        return torch.stack(row[1:])

    return Architecture(distance, (torch.randn(14),))


def principal_axes() -> Architecture:
    """Eigenvalues of a covariance, by the data."""
    return Architecture(lambda x: torch.linalg.eigvalsh(x.T @ x), (torch.randn(30, 8),))


def procrustes() -> Architecture:
    """The rotation that fits two clouds best, by one of them."""
    y = torch.randn(12, 3)

    def rotation(x: torch.Tensor) -> torch.Tensor:
        u, _, v = torch.linalg.svd(x.T @ y)
        return u @ v

    return Architecture(rotation, (torch.randn(12, 3),))


def lorenz_curve() -> Architecture:
    """Sorted and accumulated, as inequality is measured."""
    return Architecture(lambda x: x.exp().sort().values.cumsum(0) / x.exp().sum(), (torch.randn(200),))


def copula() -> Architecture:
    """A Gaussian copula's log-density by a correlation's Cholesky factor."""
    u = torch.randn(100, 6)

    def density(entries: torch.Tensor) -> torch.Tensor:
        low = torch.zeros(6, 6).index_put((_ROWS, _COLUMNS), entries) + 2 * torch.eye(6)
        z = torch.linalg.solve_triangular(low, u.T, upper=False)
        return -0.5 * z.square().sum(0) - low.diagonal().log().sum()

    return Architecture(density, (0.1 * torch.randn(21),))


_ROWS, _COLUMNS = torch.tril_indices(6, 6)

JACOBIANS: tuple[Callable[[], Architecture], ...] = (
    gp_likelihood,
    gp_mean_by_lengths,
    planar_flow,
    real_nvp,
    rational_spline,
    kalman_filter,
    hidden_markov,
    sinkhorn,
    black_scholes,
    soft_dtw,
    principal_axes,
    procrustes,
    lorenz_curve,
    copula,
    *((gpytorch_matern,) if importlib.util.find_spec("gpytorch") else ()),
)
HESSIANS: tuple[Callable[[], Architecture], ...] = (gp_likelihood, logistic_regression, rosenbrock)
