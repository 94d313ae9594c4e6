"""Arguments at random, most of them hostile: an error of ours that names the argument, or a right result."""

from __future__ import annotations

import inspect
import random
import signal
import unittest.mock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

import chunkjac as cj
from chunkjac.compat import JacrevFinite

D = torch.float64
A = torch.tensor([[1.0, 2, 3], [0, -1, 4], [5, 0.5, 0]], dtype=D)
X = torch.tensor([0.5, -1.0, 2.0], dtype=D)

# A call takes milliseconds; one that takes this long hangs.
_HANGS_S = 60

_LONGEST_MESSAGE = 1500


class Hostile:
    """Raise whatever is asked."""

    def _raise(self, *_: Any) -> Any:
        raise ZeroDivisionError("hostile")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = __iter__ = __index__ = _raise
    __repr__ = __str__ = __hash__ = __int__ = __float__ = __fspath__ = __getattr__ = __format__ = _raise


class Nonsense:
    """Answer, but nonsense."""

    def __eq__(self, other: object) -> Any:
        return torch.ones(2)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "x" * 10**7

    def __hash__(self) -> int:
        return 7

    def __index__(self) -> int:
        return 10**40

    def __float__(self) -> float:
        return float("nan")

    def __fspath__(self) -> str:
        return "\0"


class HostileText(str):
    __eq__ = __hash__ = __repr__ = __str__ = __len__ = __format__ = strip = Hostile._raise


class HostileInt(int):
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = __repr__ = __int__ = Hostile._raise


class HostileFloat(float):
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = __repr__ = __float__ = Hostile._raise


class HostileTuple(tuple):
    __eq__ = __iter__ = __len__ = __repr__ = __hash__ = __bool__ = Hostile._raise


def endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


WORDS = ("auto", "reverse", "forward", "finite-difference", "central", "complex", "vmap", "loop", "native", "same")
WORDS += ("error", "different", "output", "input", "cpu", "cuda:99", "meta", "4GiB", "80%", "1e400GiB", "-1", "0", "")
WORDS += ("\0", "x" * 10**6, "9" * 5000, "\ud800", "n" * 300 + ".npy", "J.npy", "new", "plus")
NUMBERS = (True, False, 0, 1, 2, -1, 0.5, 1e-3, float("nan"), float("inf"), 1j, 10**30, -(10**30), 10**5000, 10**400)
ODD: tuple[Callable[[], Any], ...] = (
    Hostile,
    Nonsense,
    lambda: HostileText("reverse"),
    lambda: HostileText("4GiB"),
    lambda: HostileInt(1),
    lambda: HostileFloat(0.5),
    lambda: HostileTuple((0,)),
    lambda: (Hostile(), Hostile()),
    lambda: [0, 1],
    lambda: (0,),
    lambda: (-10.0, 10.0),
    lambda: (-(10**400), 10**400),
    lambda: {Nonsense(): 1},
    endless,
    lambda: np.arange(3.0),
    lambda: np.array([Nonsense(), None], dtype=object),
    lambda: np.float32(0.25),
    lambda: np.int64(1),
    lambda: np.bool_(True),
    lambda: np.str_("forward"),
    lambda: torch.ones(3, dtype=D),
    lambda: torch.ones(3, dtype=D, requires_grad=True) * 1,
    lambda: torch.tensor(1),
    lambda: torch.tensor(True),
    lambda: torch.ones(3, dtype=D).to_sparse(),
    lambda: torch.ones(3, dtype=D, device="meta"),
    lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    lambda: torch.empty(3, 3, dtype=D),
    lambda: torch.device("cpu"),
    lambda: D,
    lambda: (i for i in range(3)),
    lambda: lambda *_: None,
    lambda: int,
    lambda: torch.nn.Linear,
    lambda: torch.nn.Identity(),
    unittest.mock.Mock,
    lambda: Decimal("0.5"),
    lambda: Fraction(1, 2),
    lambda: Path("elsewhere/J.npy"),
    lambda: Path("folder"),
    lambda: b"cpu",
    lambda: slice(1),
    lambda: None,
    lambda: ...,
    object,
)


n_evaluations = [0]


def linear(x: torch.Tensor) -> torch.Tensor:
    """Be exact in finite differences of any step."""
    n_evaluations[0] += 1
    return A @ x


def options_of(call: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(call).parameters.values()
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in kinds and p.default is not inspect.Parameter.empty]


def configured(call: Callable[..., Any], **settings: Any) -> Any:
    with cj.config_context(**settings):
        return call(linear, X)


# What is called with the options, its options, and what comes of it where it works.
CALLS: dict[str, tuple[Callable[..., Any], list[str], Any]] = {
    "jacobian": (lambda **g: cj.jacobian(linear, X, **g), options_of(cj.jacobian), A),
    "plan": (lambda **g: cj.plan(linear, X, **g).run(), options_of(cj.plan), A),
    "run": (cj.plan(linear, X).run, ["out", "resume", "progress", "return_report"], A),
    "blocks": (
        lambda **g: [block.axis for block in cj.blocks(linear, X, **g)],
        options_of(cj.blocks),
        None,
    ),
    "jacrev": (lambda **g: cj.jacrev(linear, **g)(X), options_of(cj.jacrev), A),
    "jacfwd": (lambda **g: cj.jacfwd(linear, **g)(X), options_of(cj.jacfwd), A),
    "jacfd": (lambda **g: cj.jacfd(linear, **g)(X), options_of(cj.jacfd), A),
    "hessian": (lambda **g: cj.hessian(lambda x: x @ A @ x / 2, **g)(X), options_of(cj.hessian), (A + A.T) / 2),
    "gram": (lambda **g: cj.gram(linear, X, **g), options_of(cj.gram), None),
    "norms": (lambda **g: cj.norms(linear, X, **g), options_of(cj.norms), None),
    "diagonal": (lambda **g: cj.diagonal(linear, X, **g), options_of(cj.diagonal), A.diagonal()),
    "matvec": (lambda **g: cj.matvec(linear, X, X, **g), options_of(cj.matvec), A @ X),
    "rmatvec": (lambda **g: cj.rmatvec(linear, X, X, **g), options_of(cj.rmatvec), X @ A),
    "operator": (lambda **g: cj.operator(linear, X, **g) @ X.numpy(), options_of(cj.operator), A @ X),
    "svdvals": (lambda **g: cj.svdvals(linear, X, **{"k": 2} | g), options_of(cj.svdvals), None),
    "scipy_jac": (lambda **g: cj.scipy_jac(linear, **g)(X.numpy()), options_of(cj.scipy_jac), A),
    "vectors": (lambda **g: cj.matvec(linear, X, g.get("vectors", X)), ["vectors"], None),
    "arguments": (lambda **g: cj.jacobian(linear, g.get("arguments", X)), ["arguments"], None),
    "func": (lambda **g: cj.jacobian(g.get("func", linear), X), ["func"], None),
    "open": (lambda **g: cj.open(g.get("path", "nothing")), ["path"], None),
    "config": (lambda **g: configured(cj.jacobian, **g), ["max_memory", "progress"], A),
    "paper": (
        lambda **g: JacrevFinite(**{"function": linear, "num_args": 0} | g)(X),
        [name for name in (*options_of(JacrevFinite), "num_args") if name != "wrapper"],
        A,
    ),
}


@contextmanager
def soon() -> Iterator[None]:
    def hangs(*_: Any) -> None:
        raise AssertionError(f"nothing came within {_HANGS_S} s")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(_HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def value_of(draw: random.Random) -> Any:
    kind = draw.random()
    if kind < 0.25:
        return draw.choice(WORDS)
    return draw.choice(NUMBERS) if kind < 0.5 else draw.choice(ODD)()


def is_right(found: Any, expected: torch.Tensor) -> bool:
    leaves = [torch.as_tensor(leaf, dtype=D).flatten() for leaf in tree_leaves(found) if hasattr(leaf, "shape")]
    return not leaves or torch.allclose(leaves[0], expected.flatten(), atol=1e-3)


def tried(seed: int) -> str | None:
    """Make a call; return what is wrong with what comes of it."""
    draw = random.Random(seed)
    name = draw.choice([*CALLS])
    call, options, expected = CALLS[name]
    given = {option: value_of(draw) for option in draw.sample(options, min(len(options), draw.choice((1, 1, 2))))}
    told = f"seed {seed}: {name} with " + ", ".join(f"{key}: {type(value).__name__}" for key, value in given.items())
    n_evaluations[0] = 0
    try:
        with soon(), torch.random.fork_rng([]):
            found = call(**given)
    except cj.ChunkjacError as error:
        message = str(error)
        if len(message) > _LONGEST_MESSAGE:
            return f"{told}: a message of {len(message)} letters"
        is_late = n_evaluations[0] and isinstance(error, cj.ArgumentTypeError)
        if is_late and "out" not in given:  # whose tree is that of the outputs
            return f"{told}: found after {n_evaluations[0]} evaluations"
        is_of_arguments = isinstance(error, (cj.ArgumentError, cj.ArgumentTypeError))
        return f"{told}: {message}" if is_of_arguments and not any(option in message for option in given) else None
    except Exception as error:
        is_its_own = callable(given.get("func"))
        return None if is_its_own else f"{told}: {type(error).__name__}"
    is_other = expected is None or given.keys() & {"x2", "return_report", "has_aux", "out"}
    return None if is_other or is_right(found, expected) else f"{told}: {found}"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("part", range(3))
def test_hostile_arguments_end_in_an_error_of_ours_or_a_right_result(part: int) -> None:
    faults = [fault for seed in range(100 * part, 100 * (part + 1)) if (fault := tried(seed))]
    assert not faults, "\n".join(faults)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_thousands_of_hostile_arguments_do() -> None:
    faults = [fault for seed in range(1000, 14_000) if (fault := tried(seed))]
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:100])
