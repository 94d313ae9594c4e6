"""Small functions of physics, chemistry, robots and cameras: forces, trajectories, solvers, projections."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.architectures import Architecture


def _pairs(x: torch.Tensor) -> torch.Tensor:
    """Return squared distances of all pairs of atoms."""
    i, j = torch.triu_indices(len(x), len(x), 1)
    return (x[i] - x[j]).square().sum(-1)


def _lennard_jones(x: torch.Tensor) -> torch.Tensor:
    r6 = _pairs(x) ** -3
    return (r6**2 - r6).sum()


def _cluster(n: int) -> torch.Tensor:
    """Return atoms near a lattice, so that none overlap."""
    grid = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[:n]
    return 1.2 * grid + 0.05 * torch.randn(n, 3)


def lennard_jones() -> Architecture:
    """The energy of 13 atoms."""
    return Architecture(_lennard_jones, (_cluster(13),))


def forces() -> Architecture:
    """Forces of 13 atoms, taken by autograd within, by their places."""

    def force(x: torch.Tensor) -> torch.Tensor:
        return -torch.func.grad(_lennard_jones)(x)

    return Architecture(force, (_cluster(13),))


def learnt_potential() -> Architecture:
    """The energy of 10 atoms by a network of their distances."""
    net = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 1))
    centres = torch.linspace(0.5, 4, 16)

    def energy(x: torch.Tensor) -> torch.Tensor:
        r = _pairs(x).sqrt()
        return net(torch.exp(-4 * (r[:, None] - centres).square())).sum()

    return Architecture(energy, (_cluster(10),), (net,))


def dihedrals() -> Architecture:
    """Angles along a chain of 12 atoms."""

    def angles(x: torch.Tensor) -> torch.Tensor:
        b = x[1:] - x[:-1]
        n1, n2 = torch.linalg.cross(b[:-2], b[1:-1]), torch.linalg.cross(b[1:-1], b[2:])
        m = torch.linalg.cross(n1, b[1:-1] / b[1:-1].norm(dim=-1, keepdim=True))
        return torch.atan2((m * n2).sum(-1), (n1 * n2).sum(-1))

    return Architecture(angles, (torch.randn(12, 3).cumsum(0),))


def three_bodies() -> Architecture:
    """The last place of three bodies after 50 leapfrog steps, by where they began."""

    def pull(x: torch.Tensor) -> torch.Tensor:
        off = x[None] - x[:, None]
        return (off / (off.square().sum(-1, keepdim=True) + 0.1) ** 1.5).sum(1)

    def fly(state: torch.Tensor) -> torch.Tensor:
        x, v = state.view(2, 3, 2)
        for _ in range(50):
            v = v + 0.01 * pull(x)
            x = x + 0.01 * v
        return torch.cat([x, v]).flatten()

    return Architecture(fly, (torch.randn(12),))


def adaptive_solver() -> Architecture:
    """Van der Pol's oscillator by a pair of Runge-Kutta formulas that reads values to choose its steps."""

    def field(y: torch.Tensor) -> torch.Tensor:
        return torch.stack([y[1], 2 * (1 - y[0] ** 2) * y[1] - y[0]])

    def solve(y: torch.Tensor) -> torch.Tensor:
        t, h = 0.0, 0.1
        while t < 2.0:
            h = min(h, 2.0 - t)
            k1 = field(y)
            k2 = field(y + h * k1)
            low, high = y + h * k1, y + h / 2 * (k1 + k2)
            off = float((low - high).abs().max())
            if off < 1e-2:
                t, y = t + h, high
            h *= min(2.0, max(0.3, 0.9 * (1e-2 / (off + 1e-12)) ** 0.5))
        return y

    return Architecture(solve, (torch.tensor([1.0, 0.5]),))


def newton_solver() -> Architecture:
    """The root of a system of 20 equations after eight steps, by its right side."""
    a = torch.randn(20, 20) / 5

    def root(b: torch.Tensor) -> torch.Tensor:
        x = torch.zeros(20)
        for _ in range(8):
            residual = x + 0.3 * torch.tanh(a @ x) - b
            slope = torch.eye(20) + 0.3 * (1 - torch.tanh(a @ x) ** 2)[:, None] * a
            x = x - torch.linalg.solve(slope, residual)
        return x

    return Architecture(root, (torch.randn(20),))


def fixed_point() -> Architecture:
    """A deep equilibrium, iterated until it moves less than a bound."""
    w, u = torch.randn(30, 30) / 12, torch.randn(30, 30)

    def rest(x: torch.Tensor) -> torch.Tensor:
        z = torch.zeros(30)
        for _ in range(100):
            new = torch.tanh(z @ w + x @ u)
            if float((new - z).detach().abs().max()) < 1e-4:
                break
            z = new
        return new

    return Architecture(rest, (torch.randn(30),))


def implicit_heat() -> Architecture:
    """Ten implicit steps of the heat equation, by what conducts."""
    n = 40

    def evolve(log_k: torch.Tensor) -> torch.Tensor:
        k = log_k.exp()
        a = torch.diag(k[:-1] + k[1:]) - torch.diag(k[1:-1], 1) - torch.diag(k[1:-1], -1)
        step = torch.linalg.inv(torch.eye(n) + 0.1 * a)
        u = torch.sin(torch.linspace(0, 3, n))
        for _ in range(10):
            u = step @ u
        return u

    return Architecture(evolve, (0.1 * torch.randn(n + 1),))


def wave_equation() -> Architecture:
    """A string after 60 steps, by how it began."""

    def swing(u: torch.Tensor) -> torch.Tensor:
        before = u
        for _ in range(60):
            u, before = 2 * u - before + 0.2 * (u.roll(1) - 2 * u + u.roll(-1)), u
        return u

    return Architecture(swing, (torch.randn(128),))


def epidemic() -> Architecture:
    """Curves of an SIR model by two rates: tall."""

    def curves(rates: torch.Tensor) -> torch.Tensor:
        s, i, all_ = torch.tensor(0.99), torch.tensor(0.01), []
        for _ in range(100):
            new, gone = rates[0] * s * i, rates[1] * i
            s, i = s - new, i + new - gone
            all_.append(torch.stack([s, i]))
        return torch.stack(all_)

    return Architecture(curves, (torch.tensor([0.3, 0.1]),))


def cart_pole() -> Architecture:
    """The states of a cart and its pole, by 40 pushes."""

    def roll(pushes: torch.Tensor) -> torch.Tensor:
        x, v, a, w = torch.zeros(4).unbind()
        states = []
        for push in pushes:
            sin, cos = torch.sin(a), torch.cos(a)
            inner = (push + 0.05 * w**2 * sin) / 1.1
            turn = (9.8 * sin - cos * inner) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
            x, v, a, w = x + 0.02 * v, v + 0.02 * (inner - 0.05 * turn * cos), a + 0.02 * w, w + 0.02 * turn
            states.append(torch.stack([x, v, a, w]))
        return torch.stack(states)

    return Architecture(roll, (torch.randn(40),))


def robot_arm() -> Architecture:
    """Where the hand of an arm of seven joints is, and how it is turned."""
    axes, links = nn.functional.normalize(torch.randn(7, 3), dim=-1), torch.randn(7, 3)

    def hand(q: torch.Tensor) -> torch.Tensor:
        place, turn = torch.zeros(3), torch.eye(3)
        for axis, link, angle in zip(axes, links, q):
            place = place + turn @ link
            turn = turn @ _rotation(axis * angle)
        return torch.cat([place, turn.flatten()])

    return Architecture(hand, (torch.randn(7),))


def _rotation(w: torch.Tensor) -> torch.Tensor:
    """Return a rotation by its axis times its angle."""
    zero = torch.zeros_like(w[0])
    k = torch.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).view(3, 3)
    return torch.linalg.matrix_exp(k)


def bundle_residuals() -> Architecture:
    """How far 300 points are from where a camera of six numbers sees them: tall."""
    points, seen = torch.randn(300, 3) + torch.tensor([0.0, 0, 6]), torch.randn(300, 2)

    def residuals(pose: torch.Tensor) -> torch.Tensor:
        p = points @ _rotation(pose[:3]).T + pose[3:]
        return (p[:, :2] / p[:, 2:] - seen).flatten()

    return Architecture(residuals, (0.1 * torch.randn(6),))


def spring_net() -> Architecture:
    """The energy of a net of 8 x 8 knots and springs."""

    def energy(x: torch.Tensor) -> torch.Tensor:
        x = x.view(8, 8, 2)
        along, down = x[1:] - x[:-1], x[:, 1:] - x[:, :-1]
        return ((along.norm(dim=-1) - 1) ** 2).sum() + ((down.norm(dim=-1) - 1) ** 2).sum()

    grid = torch.cartesian_prod(torch.arange(8.0), torch.arange(8.0))
    return Architecture(energy, ((grid + 0.1 * torch.randn(64, 2)).flatten(),))


def spectrogram() -> Architecture:
    """Power of a short sound by frequency and time."""
    window = torch.hann_window(64)

    def power(x: torch.Tensor) -> torch.Tensor:
        return torch.stft(x, 64, window=window, return_complex=True).abs().square().add(1e-3).log()

    return Architecture(power, (torch.randn(256),))


def warped_image() -> Architecture:
    """An image that is sampled elsewhere, by the six numbers of an affine map: tall."""
    image = torch.randn(1, 3, 24, 24)

    def warp(theta: torch.Tensor) -> torch.Tensor:
        grid = nn.functional.affine_grid(theta.view(1, 2, 3), (1, 3, 24, 24), align_corners=False)
        return nn.functional.grid_sample(image, grid, align_corners=False)

    return Architecture(warp, (torch.tensor([1.0, 0.1, 0, -0.1, 1, 0]),))


def quantum_circuit() -> Architecture:
    """Probabilities of five qubits after 15 turned gates, by their angles."""

    def probabilities(angles: torch.Tensor) -> torch.Tensor:
        state = torch.zeros(2**5, dtype=torch.complex64).index_fill(0, torch.tensor([0]), 1).view([2] * 5)
        for n, angle in enumerate(angles):
            c, s = torch.cos(angle / 2), torch.sin(angle / 2)
            gate = torch.stack([c, -s, s, c]).view(2, 2).to(torch.complex64)
            state = torch.tensordot(gate, state, dims=([1], [n % 5])).movedim(0, n % 5)
            state = state * torch.where(torch.arange(2) == 1, 1j, 1.0).view(2, *[1] * 4)
            state = state.movedim(0, 4)
        return state.abs().square().flatten()

    return Architecture(probabilities, (torch.randn(15),))


JACOBIANS: tuple[Callable[[], Architecture], ...] = (
    lennard_jones,
    forces,
    dihedrals,
    three_bodies,
    adaptive_solver,
    newton_solver,
    fixed_point,
    implicit_heat,
    wave_equation,
    epidemic,
    cart_pole,
    robot_arm,
    bundle_residuals,
    spectrogram,
    warped_image,
    quantum_circuit,
)
HESSIANS: tuple[Callable[[], Architecture], ...] = (lennard_jones, learnt_potential, spring_net)
