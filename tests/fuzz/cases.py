"""A function put together at random, and the script that it is."""

from __future__ import annotations

import random
import re
import warnings
from dataclasses import dataclass
from typing import Any

import torch

from tests.fuzz.grammar import GROUPS, Kind

# What scripts begin with.
PREAMBLE = '''
import os
import sys
import tempfile
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

import chunkjac as cj


def T(seed, *shape):
    """Return numbers that are the same in each precision."""
    numbers = torch.arange(1, int(np.prod(shape)) + 1, dtype=torch.float64)
    return (1.4 * torch.sin(numbers * (1.3 + 0.37 * seed) + 0.7 * seed)).view(shape).float().to(D)


def filled(module, seed):
    """Return a module with numbers of a seed."""
    module = module.to(D)
    with torch.no_grad():
        for i, held in enumerate(module.parameters()):
            held.copy_(0.7 * T(seed + i, *held.shape))
    return module


class Old(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class New(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, k):
        return x.sin() * k

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.k = inputs[1]

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos() * ctx.k, None


class Whole(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.exp().log1p()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.sigmoid(ctx.saved_tensors[0])

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * torch.sigmoid(ctx.saved_tensors[0])

    @staticmethod
    def vmap(info, in_dims, x):
        return Whole.apply(x), in_dims[0]


class Product(torch.autograd.Function):
    @staticmethod
    def forward(x, y):
        return x * y

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        return grad * y, grad * x
'''

# How an input of a shape comes to be: the places are for a seed, and for the shape's parts.
INPUTS = {
    "plain": "T({s}, {shape})",
    "requires grad": "T({s}, {shape}).requires_grad_()",
    "a parameter": "nn.Parameter(T({s}, {shape}))",
    "a strided slice": "T({s}, 2, {shape})[1] if not ({shape},) else T({s}, {shape}, 2)[..., 0]",
    "transposed": "T({s}, *({shape},)[::-1]).permute(*reversed(range({dims})))",
    "expanded": "T({s}, *({shape},)[:-1], 1).expand({shape})",
    "a view behind others": "T({s}, 3, {shape})[2]",
    "of a conjugate": "torch.complex(T({s}, {shape}), T({s}, {shape})).conj().real",
    "negative": "torch.complex(T({s}, {shape}), T({s}, {shape})).conj().imag",
}

N_RUNS = 4
_LARGEST, _MOST_ELEMENTS = 30.0, 48


@dataclass(frozen=True)
class Step:
    """Hold a statement, and what it needs.

    Attributes:
        name: What it is called where coverage is told.
        target: The name of its result.
        text: The statement.
        setup: What is there before the function is called.
        change: What happens between two runs.
        shape: The shape of the result.
    """

    name: str
    target: str
    text: str
    setup: str = ""
    change: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Input:
    """Hold an argument: where it comes from, and its shape."""

    name: str
    kind: str
    seed: int
    shape: tuple[int, ...]

    @property
    def text(self) -> str:
        """Return an expression that makes it, ahead of ``run`` being known."""
        shape = ", ".join(map(str, self.shape))
        made = INPUTS[self.kind if self.shape else "plain"]
        return made.format(s=f"{self.seed} + 100 * run", shape=shape, dims=len(self.shape)).replace(", )", ")")


@dataclass(frozen=True)
class Case:
    """Hold a function of some inputs.

    Attributes:
        dtype: What it computes in.
        inputs: What it is called with.
        argnums: What it is differentiated by.
        steps: What it does.
        outputs: The names that it returns.
        wraps: How it returns them.
    """

    dtype: str
    inputs: tuple[Input, ...]
    argnums: tuple[int, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]
    wraps: str

    @property
    def text(self) -> str:
        """Return what defines ``D``, ``S``, ``func``, ``inputs`` and ``change``."""
        names = ", ".join(argument.name for argument in self.inputs)
        if len(self.outputs) == 1 and self.wraps == "tuple":
            returned = self.outputs[0]
        elif self.wraps == "dict":
            returned = "{" + ", ".join(f"{i}: {name}" for i, name in enumerate(self.outputs)) + "}"
        else:
            returned = "(" + ", ".join(self.outputs) + ",)"
        lines = [PREAMBLE, f"D = torch.{self.dtype}", "S = SimpleNamespace()"]
        lines += [step.setup for step in self.steps if step.setup]
        lines += [f"\n\ndef func({names}):", *(_indented(step.text) for step in self.steps), f"    return {returned}"]
        points = ", ".join(argument.text for argument in self.inputs)
        lines += ["\n\ndef inputs(run):", f"    return ({points},)"]
        changes = [step.change for step in self.steps if step.change]
        lines += ["\n\ndef change(run):", *map(_indented, changes or ["pass"]), ""]
        return "\n".join(lines)

    def namespace(self, dtype: str = "") -> dict[str, Any]:
        """Return all names that it defines, freshly made, in another precision if one is given."""
        text = self.text.replace(f"D = torch.{self.dtype}", f"D = torch.{dtype or self.dtype}", 1)
        names: dict[str, Any] = {"__name__": "fuzzed"}
        exec(compile(text, "<fuzzed>", "exec"), names)
        return names


class Maker:
    """Put cases together, each of its own seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._steps: list[Step] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def case(self) -> Case:
        """Return a case whose function runs, on numbers of moderate size."""
        draw = self._random
        shapes = draw.choices(
            [(4,), (3, 2), (2, 3), (5,), (2, 2, 2), (), (1,), (3,), (3, 3)], k=draw.choice([1, 1, 1, 2, 3])
        )
        kinds = draw.choices([*INPUTS], weights=[12, 2, 1, 1, 1, 1, 1, 0.5, 0.5], k=len(shapes))
        inputs = tuple(
            Input(f"x{i}", kind, draw.randrange(1000), shape) for i, (kind, shape) in enumerate(zip(kinds, shapes))
        )
        dtype = draw.choices(["float64", "float32"], [3, 1])[0]
        n_by = draw.randint(1, len(inputs))
        case = Case(dtype, inputs, tuple(sorted(draw.sample(range(len(inputs)), n_by))), (), ("x0",), "tuple")
        self._names = case.namespace("float64")
        for argument, value in zip(inputs, self._names["inputs"](0)):
            self._names[argument.name] = value.detach().requires_grad_()
            self._shapes[argument.name] = argument.shape
        for _ in range(draw.choice([1, 2, 3, 4, 5, 6, 8, 12])):
            self._add_step()
        made = [step.target for step in self._steps]
        outputs = made[-1:] + draw.sample(made[:-1], min(len(made) - 1, draw.choice([0, 0, 0, 1, 2])))
        wraps = draw.choice(["tuple", "tuple", "dict"])
        return Case(dtype, inputs, case.argnums, tuple(self._steps), tuple(outputs or [inputs[0].name]), wraps)

    def _add_step(self) -> None:
        """Add a statement that runs on what there is."""
        for _ in range(30):
            kinds, _ = self._random.choices([*GROUPS.values()], [weight for _, weight in GROUPS.values()])[0]
            step = self._filled(self._random.choice(kinds))
            if step is None:
                continue
            shape = self._tried(step)
            if shape is not None:
                self._shapes[step.target] = shape
                self._steps.append(Step(step.name, step.target, step.text, step.setup, step.change, shape))
                return

    def _filled(self, kind: Kind) -> Step | None:
        """Fill the holes of a statement; ``None`` if nothing fits."""
        draw = self._random
        known = [*self._shapes]
        weights = [1.0 + 2 * i for i in range(len(known))]  # the last ones are used most
        a, b, c = draw.choices(known, weights, k=3)
        shape = self._shapes[a]
        low, high = kind.n_dims
        if not low <= len(shape) <= high or 0 in shape:
            return None
        d = draw.randrange(len(shape)) if shape else 0
        n = shape[d] if shape else 1
        i = draw.randrange(n)
        target = f"v{len(self._steps)}"
        holes = {
            "t": target,
            "u": f"{target}_",
            "a": a,
            "b": b,
            "c": c,
            "d": d - draw.choice([0, 0, len(shape)]) if shape else 0,
            "n": shape[-1] if shape and kind.setup else n,
            "m": shape[0] if shape else 1,
            "i": i,
            "j": draw.randint(i + 1, n),
            "s": draw.randrange(1000),
            "f": draw.choice([-0.5, 0.1, 0.3, 0.75, 1.5]),
            "shape": ", ".join(map(str, shape)),
        }
        setup, change = (text.format(**holes).replace(", )", ")") for text in (kind.setup, kind.change))
        changes = change if draw.random() < 0.7 else ""
        return Step(kind.name, target, kind.text.format(**holes).replace(", )", ")"), setup, changes)

    def _tried(self, step: Step) -> tuple[int, ...] | None:
        """Run a statement; return the shape of its result, and ``None`` if that cannot be used."""
        names = dict(self._names)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                exec(compile(f"{step.setup}\n{step.text}", "<fuzzed>", "exec"), names)
        except Exception:
            return None
        made = names[step.target]
        if not isinstance(made, torch.Tensor) or made.dtype != torch.float64 or not 0 < made.numel() <= _MOST_ELEMENTS:
            return None
        if made.dim() > 4 or not bool((made.abs() < _LARGEST).all()) or made.layout != torch.strided:
            return None
        self._names.update(names)
        return tuple(made.shape)


def renamed(text: str, old: str, new: str) -> str:
    """Return a text with another name in place of one."""
    return re.sub(rf"\b{old}\b", new, text)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
