"""SciPy's solvers are faster with our Jacobians than with their own differences.

``solve_ivp`` (BDF) on the Brusselator with diffusion in one dimension, 2000 equations, stiff; ``least_squares`` on the
72 parameters of eight competing species, whose populations are integrated by 200 steps of a Runge-Kutta method.
Functions are PyTorch's on all sides; the times are of whole solutions, all planning included, and sides take turns.
Beside them: SciPy's differences with the pattern of the Jacobian written down by hand, which ours is not told. Aim:
faster than SciPy's own differences.

Source:
    Hairer, Wanner, *Solving Ordinary Differential Equations II*, 1996, IV.10: BRUSS.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares
from scipy.sparse import diags_array

import chunkjac as cj
from benchmarks.record import medians_s

PACKAGES = ("scipy", "numpy")

_N_CELLS = 1000
_N_SPECIES, _N_STEPS, _STEP = 8, 200, 0.1


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    n_rounds = 1 if quick else 3
    return [_integrated(n_rounds, quick=quick), _fitted(n_rounds)]


def brusselator(_: float, y: torch.Tensor) -> torch.Tensor:
    """Return the time derivative of two concentrations that react and diffuse, one beside the other in each cell."""
    u, v = y[0::2], y[1::2]
    strength = 0.02 * (len(u) + 1) ** 2
    one, three = y.new_ones(1), y.new_full((1,), 3.0)
    around_u, around_v = torch.cat([one, u, one]), torch.cat([three, v, three])
    reaction = u * u * v
    du = 1 + reaction - 4 * u + strength * (around_u[2:] - 2 * u + around_u[:-2])
    dv = 3 * u - reaction + strength * (around_v[2:] - 2 * v + around_v[:-2])
    return torch.stack([du, dv], 1).reshape(-1)


def _integrated(n_rounds: int, *, quick: bool) -> dict[str, Any]:
    """Compare ways to give ``solve_ivp`` a Jacobian."""
    places = np.linspace(0, 1, _N_CELLS + 2)[1:-1]
    start = np.stack([1 + np.sin(2 * np.pi * places), np.full(_N_CELLS, 3.0)], 1).reshape(-1)
    solve = partial(_solve, _numpy(brusselator), start, 1.0 if quick else 10.0)
    pattern = diags_array([1.0] * 5, offsets=(-2, -1, 0, 1, 2), shape=(2 * _N_CELLS, 2 * _N_CELLS), dtype=float)
    sides = {
        "ours, sparse": lambda: solve(jac=cj.scipy_jac(brusselator, argnums=1, sparse=True)),
        "ours, dense": lambda: solve(jac=cj.scipy_jac(brusselator, argnums=1)),
        "SciPy's differences": solve,
        "SciPy's, pattern by hand": lambda: solve(jac_sparsity=pattern),
    }
    return _compared("solve_ivp, Brusselator of 2000 equations", sides, n_rounds, lambda found: found.y[:, -1])


def _solve(func: Callable[..., Any], start: Any, end: float, **options: Any) -> Any:
    """Integrate with an implicit method."""
    return solve_ivp(func, (0.0, end), start, method="BDF", rtol=1e-5, atol=1e-7, **options)


def _fitted(n_rounds: int) -> dict[str, Any]:
    """Compare ways to give ``least_squares`` a Jacobian."""
    generator = torch.Generator().manual_seed(0)
    growth = 0.5 + torch.rand(_N_SPECIES, generator=generator, dtype=torch.float64)
    effects = 0.3 * torch.rand(_N_SPECIES, _N_SPECIES, generator=generator, dtype=torch.float64)
    effects += torch.eye(_N_SPECIES, dtype=torch.float64)
    true = torch.cat([growth, effects.reshape(-1)])
    data = populations(true)

    def residuals(parameters: torch.Tensor) -> torch.Tensor:
        return (populations(parameters) - data).reshape(-1)

    start = true.numpy() * (1 + 0.1 * np.cos(np.arange(len(true))))
    solve = partial(least_squares, _numpy(residuals), start, method="trf", ftol=1e-10, xtol=1e-10)
    sides = {"ours, dense": lambda: solve(jac=cj.scipy_jac(residuals)), "SciPy's differences": solve}
    name = f"least_squares, {data.numel()} residuals, {len(true)} parameters"
    return _compared(name, sides, n_rounds, lambda found: found.fun)


def populations(parameters: torch.Tensor) -> torch.Tensor:
    """Return how species that compete grow: Runge and Kutta's method of fourth order, each fourth step is kept."""
    growth, effects = parameters[:_N_SPECIES], parameters[_N_SPECIES:].view(_N_SPECIES, _N_SPECIES)

    def slope(y: torch.Tensor) -> torch.Tensor:
        return y * (growth - effects @ y)

    y, kept = parameters.new_full((_N_SPECIES,), 0.1), []
    for i in range(_N_STEPS):
        k1 = slope(y)
        k2 = slope(y + _STEP / 2 * k1)
        k3 = slope(y + _STEP / 2 * k2)
        k4 = slope(y + _STEP * k3)
        y = y + _STEP / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if i % 4 == 3:
            kept.append(y)
    return torch.stack(kept)


def _compared(
    name: str, sides: dict[str, Callable[[], Any]], n_rounds: int, values_of: Callable[[Any], Any]
) -> dict[str, Any]:
    """Time whole solutions; return a row, and print it."""
    found = {side: solve() for side, solve in sides.items()}
    times_s = medians_s(sides, n_rounds)
    ours = next(iter(sides))
    rival_s = times_s["SciPy's differences"]
    expected = values_of(found["SciPy's differences"])
    print(name)
    for side, time_s in times_s.items():
        error = float(np.abs(values_of(found[side]) - expected).max())
        print(f"  {side:<26} {time_s:>8.2f} s  {time_s / rival_s:>6.2f}  largest difference {error:.0e}", flush=True)
    return {
        "problem": name,
        "times_s": times_s,
        "ratio": times_s[ours] / rival_s,
        "n_evaluations": {side: int(solution.nfev) for side, solution in found.items()},
        "n_jacobians": {side: int(solution.njev) for side, solution in found.items()},
        "largest_difference": float(np.abs(values_of(found[ours]) - expected).max()),
    }


def _numpy(func: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    """Return a function of tensors as one of arrays."""
    return lambda *args: func(*(torch.from_numpy(x) if isinstance(x, np.ndarray) else x for x in args)).numpy()
