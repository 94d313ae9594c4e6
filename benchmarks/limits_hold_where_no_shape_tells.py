"""No limit is exceeded by what no shape foretells: values that decide sizes, operators nobody knows, bare storages.

Each function makes up to 128 MiB beside a Jacobian of 16 KiB and runs in each mode under 8 and 512 MiB, in a process
of its own. ``tracked`` is what a tracker around the call saw, ``rise`` how far the highest resident set rose. It is
over if the first exceeds the limit, or the second 1.05 times the limit and 8 MiB, and a Jacobian comes all the same.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import torch

import chunkjac as cj
from benchmarks.memory_child import MODES, SystemPeak
from chunkjac._memory.tracker import LiveBytes

_MIB = 2**20
LIMITS = (8 * _MIB, 512 * _MIB)
N = 5792  # squared 128 MiB in single precision


@torch.library.custom_op("chunkjac_benchmarks::grow", mutates_args=())
def grow(x: torch.Tensor) -> torch.Tensor:
    """Make much of little, and tell nobody."""
    return x.new_ones(N, N)


@torch.library.custom_op("chunkjac_benchmarks::grow_foreseen", mutates_args=())
def grow_foreseen(x: torch.Tensor) -> torch.Tensor:
    """Make much of little, and say so."""
    return x.new_ones(N, N)


grow_foreseen.register_fake(lambda x: x.new_empty(N, N))


class Wrapped(torch.Tensor):
    """Be a tensor that holds another one."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Wrapped:
        """Wrap a tensor."""
        made = torch.Tensor._make_wrapper_subclass(cls, (1,), dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do it to what is held."""
        made = func(*[arg.inner if isinstance(arg, Wrapped) else arg for arg in args], **(kwargs or {}))
        return Wrapped(made) if isinstance(made, torch.Tensor) else made


class Weights:
    """Hold weights where only attributes of attributes show them."""

    def __init__(self) -> None:
        self.layers = {"w": torch.randn(64, N), "v": torch.randn(N, N)}

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Return a part of two layers."""
        return (torch.tanh(x @ self.layers["w"]) @ self.layers["v"])[:64]


def _beside(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], Callable[..., Any]]:
    """Return what makes a function that makes a number of much, and multiplies by it."""
    return lambda: lambda x: x * make(x.detach()).detach().reshape(-1)[0]


def _of_a_matrix(make: Callable[[torch.Tensor], Any]) -> Callable[[], Callable[..., Any]]:
    """Return the same where much is made of a large matrix that was there before."""

    def made() -> Callable[..., Any]:
        matrix = torch.ones(N, N)
        return lambda x: x * make(matrix).reshape(-1)[0].to(x.dtype)

    return made


def _loaded() -> Callable[..., Any]:
    """Return a function that loads."""
    saved = io.BytesIO()
    torch.save(torch.ones(N, N), saved)

    def load(x: torch.Tensor) -> torch.Tensor:
        saved.seek(0)
        return x * torch.load(saved)[0, 0]

    return load


def _unpickled() -> Callable[..., Any]:
    """Return a function that unpickles."""
    packed = pickle.dumps(torch.ones(N, N))
    return lambda x: x * pickle.loads(packed)[0, 0]


def _resized(_: torch.Tensor) -> torch.Tensor:
    """Return a tensor in memory that no operation took."""
    made = torch.empty(0)
    made.untyped_storage().resize_(4 * N * N).fill_(0)
    return made.set_(made.untyped_storage(), 0, (N, N), (N, 1))


FUNCTIONS: dict[str, Callable[[], Callable[..., Any]]] = {
    "mask": _of_a_matrix(lambda w: w[w > 0]),
    "masked_select": _of_a_matrix(lambda w: w.masked_select(w > 0)),
    "nonzero": _of_a_matrix(lambda w: w.nonzero()),
    "unique": _of_a_matrix(lambda w: w.unique()),
    "repeat_interleave": _beside(lambda _: torch.repeat_interleave(torch.tensor([N * N // 2]))),
    "bincount": _beside(lambda _: torch.bincount(torch.tensor([3, N * N // 2]))),
    "unknown operator": _beside(grow),
    "operator with a fake": _beside(grow_foreseen),
    "deepcopy": _of_a_matrix(copy.deepcopy),
    "pickle": _unpickled,
    "torch.load": _loaded,
    "resize_ of a storage": _beside(_resized),
    "clone of a storage": _of_a_matrix(lambda w: torch.empty(0).set_(w.untyped_storage().clone(), 0, (N,), (1,))),
    "torch.tensor": _beside(lambda _: torch.tensor([1.0] * (N * N // 8))),
    "wrapper": _of_a_matrix(lambda w: (Wrapped(w) * 2).inner),
    "sparse": _of_a_matrix(lambda w: w.to_sparse().values()),
    "product of steps": _of_a_matrix(lambda w: w[::2, ::2] @ w[0, : N // 2]),
    "weights in an object": lambda: Weights().apply,
    "scripted": lambda: torch.jit.script(torch.nn.Sequential(torch.nn.Linear(64, N), torch.nn.Linear(N, 64))),
}


def run(*, quick: bool) -> list[dict[str, Any]]:
    """Measure, print, return the rows."""
    names = list(FUNCTIONS)[::4] if quick else list(FUNCTIONS)
    rows = []
    print(f"{'function':<22} {'mode':<18} {'limit':>8} {'tracked':>10} {'rise':>10}")
    for name, mode, limit in product(names, MODES, LIMITS):
        command = [sys.executable, "-m", f"benchmarks.{__name__.rpartition('.')[2]}", name, mode, str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = (done.stdout or done.stderr or "nothing").strip().splitlines()[-1]
        row = json.loads(said) if not done.returncode else {"outcome": "failed", "why": said, "is_over": True}
        rows.append({"function": name, "mode": mode, "limit_bytes": limit, **row})
        figures = [f"{row[key] / _MIB:>6.1f} MiB" for key in ("tracked_bytes", "rise_bytes") if key in row]
        print(f"{name:<22} {mode:<18} {limit // _MIB:>4} MiB {' '.join(figures)} {row['outcome']}", flush=True)
    print(f"over: {sum(row['is_over'] for row in rows)} of {len(rows)}")
    return rows


def _measure(name: str, mode: str, limit: int) -> dict[str, Any]:
    """Measure one function in this process."""
    func, x = FUNCTIONS[name](), torch.ones(64)
    cj.jacobian(torch.sin, x, mode=mode, max_memory="64MiB", return_report=True)  # libraries are loaded
    with SystemPeak(torch.device("cpu")) as peak, LiveBytes(torch.device("cpu")) as tracker:
        try:
            cj.jacobian(func, x, mode=mode, max_memory=limit)
            outcome = "done"
        except cj.BudgetError as error:
            outcome = f"refused: {str(error).partition('): ')[2][:90]}"
    is_beyond = tracker.peak_bytes > limit or peak.rise_bytes > 1.05 * limit + 8 * _MIB
    return {
        "outcome": outcome,
        "tracked_bytes": tracker.peak_bytes,
        "rise_bytes": peak.rise_bytes,
        "is_over": outcome == "done" and is_beyond,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(json.dumps(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
