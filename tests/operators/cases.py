"""What is differentiated: samples of operators, as functions of flat real tensors.

Operators and samples are torch's own: the list that its gradient checks go through. As there, an
operator is wrapped so that its derivative is well defined (``cholesky`` of a matrix made
Hermitian, eigenvectors up to their phase).
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

DTYPE = torch.float64

# Of each operator, samples evenly spread over those of different shapes and options.
N_SAMPLES = 8

# Larger samples are cut: the first elements of each input vary, the first of each output count.
MOST_ELEMENTS = 400

SEED = 7

Func = Callable[..., Any]
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Hold one sample of an operator.

    Attributes:
        operator: Its name, with its variant after a dot.
        sample: Its number among torch's samples.
        what: Shapes and options, for people.
        func: Takes ``inputs``, returns a tuple of real tensors.
        inputs: Where to differentiate.
    """

    operator: str
    sample: int
    what: str
    func: Func
    inputs: Tensors

    @property
    def argnums(self) -> tuple[int, ...]:
        """Return the numbers of all inputs."""
        return tuple(range(len(self.inputs)))


@dataclass(frozen=True, slots=True)
class _Sample:
    """Hold a sample as torch makes it, flattened, and which of its leaves to differentiate with respect to."""

    number: int
    leaves: list[Any]
    spec: Any
    chosen: tuple[int, ...]
    process: Callable[[Any], Any]

    @property
    def n_elements(self) -> int:
        return sum(self.leaves[i].numel() for i in self.chosen)

    @property
    def what(self) -> str:
        return repr(tree_unflatten([_word(leaf) for leaf in self.leaves], self.spec))


def names() -> list[str]:
    """Return the operators that have a derivative in double precision."""
    return list(_operators())


def cases(name: str, n_samples: int = N_SAMPLES, edge: str = "") -> Iterator[Case]:
    """Yield cases of an operator, at torch's points or at points where formulas fail."""
    op = _operators()[name]
    for sample in _spread(_distinct(_samples(op, name)), n_samples):
        try:
            case = _case(op, name, _at_edge(sample, edge) if edge else sample)
        except Exception:
            if not edge:
                raise
            continue  # the operator takes no such numbers
        if case is not None:
            yield case


def _singular(x: torch.Tensor) -> torch.Tensor:
    """Return matrices with two equal columns, of those that are square."""
    if x.dim() < 2 or x.shape[-1] != x.shape[-2] or x.shape[-1] < 2:
        return x
    return torch.cat([x[..., :-1], x[..., :1]], -1)


# What is done to the numbers that vary, and to whole ones (indices, exponents).
EDGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "zeros": (torch.zeros_like, torch.clone),
    "ties": (lambda x: torch.full_like(x, 0.5), torch.clone),
    "whole": (torch.round, torch.clone),
    "far apart": (lambda x: 40 * x, torch.clone),
    "overflow": (lambda x: 1000 * x, torch.clone),
    "singular": (_singular, torch.clone),
    "repeated": (torch.clone, torch.zeros_like),
    "negative": (torch.clone, lambda x: torch.full_like(x, -1)),
}


def _at_edge(sample: _Sample, edge: str) -> _Sample:
    """Return a sample with other numbers."""
    vary, others = EDGES[edge]
    leaves = list(sample.leaves)
    for i, leaf in enumerate(leaves):
        if i in sample.chosen:
            leaves[i] = vary(leaf)
        elif isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.int32, torch.int64):
            leaves[i] = others(leaf)
    return replace(sample, leaves=leaves)


def seed() -> None:
    """Begin the random numbers again, so that all sides draw the same."""
    torch.manual_seed(SEED)


@cache
def _operators() -> dict[str, Any]:
    """Return torch's descriptions of operators by name; importing them takes seconds."""
    from torch.testing._internal.common_methods_invocations import op_db

    wanted = [op for op in op_db if op.supports_autograd and DTYPE in op.supported_backward_dtypes("cpu")]
    return {op.full_name: op for op in wanted}


def _samples(op: Any, name: str) -> list[_Sample]:
    """Return the samples of an operator that have something to differentiate; the same ones every time."""
    number = zlib.crc32(name.encode())
    random.seed(number)
    np.random.seed(number)  # some of torch's samples draw from there
    torch.manual_seed(number)
    found = []
    for i, sample in enumerate(op.sample_inputs("cpu", DTYPE, requires_grad=True)):
        leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
        chosen = tuple(at for at, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and leaf.requires_grad)
        if chosen:
            plain = tree_map(lambda x: x.detach() if isinstance(x, torch.Tensor) else x, leaves)
            found.append(_Sample(i, plain, spec, chosen, sample.output_process_fn_grad))
    return found


def _distinct(samples: Sequence[_Sample]) -> list[_Sample]:
    """Return one sample of each kind, and at most one without elements; large ones only if there are no others."""
    kinds = {sample.what: sample for sample in samples}
    empty = [sample for sample in kinds.values() if sample.n_elements == 0][:1]
    full = [sample for sample in kinds.values() if sample.n_elements > 0]
    small = [sample for sample in full if sample.n_elements <= MOST_ELEMENTS]
    return (small or full) + empty


def _spread(samples: Sequence[_Sample], n: int) -> list[_Sample]:
    """Return at most ``n`` of them, evenly spread, the first and the last included."""
    if len(samples) <= n:
        return list(samples)
    return [samples[round(i * (len(samples) - 1) / max(1, n - 1))] for i in range(n)]


def _case(op: Any, name: str, sample: _Sample) -> Case | None:
    """Return a sample as a function of its differentiable inputs; nothing if it has no real output."""
    share = max(1, MOST_ELEMENTS // len(sample.chosen))
    whole = tuple(sample.leaves[i] for i in sample.chosen)
    first = [x.numel() > share and sample.n_elements > MOST_ELEMENTS for x in whole]
    inputs = tuple(x.reshape(-1)[:share].clone() if cut else x for x, cut in zip(whole, first))

    def func(*inputs: torch.Tensor) -> Any:
        leaves = list(sample.leaves)
        for i, x, all_of_x, cut in zip(sample.chosen, inputs, whole, first):
            leaves[i] = torch.cat([x, all_of_x.reshape(-1)[share:]]).view(all_of_x.shape) if cut else x
        point, args, kwargs = tree_unflatten(leaves, sample.spec)
        output = op.gradcheck_wrapper(op.get_op(), point, *args, **kwargs)
        return _real_parts(sample.process(output) if sample.process else output)

    kept = _differentiable(func, inputs)

    def func_of_kept(*inputs: torch.Tensor) -> Any:
        outputs = func(*inputs)
        return tuple(outputs[i] for i in kept)

    return Case(name, sample.number, sample.what, func_of_kept, inputs) if kept else None


def _differentiable(func: Func, inputs: Tensors) -> list[int]:
    """Return which outputs torch calls differentiable (not a batch norm's saved statistics, for instance)."""
    seed()
    with torch.enable_grad():
        outputs = func(*(x.detach().requires_grad_() for x in inputs))
    return [i for i, output in enumerate(outputs) if output.requires_grad] or list(range(len(outputs)))


def _real_parts(output: Any) -> Tensors:
    """Return the outputs that can have a derivative: floating-point ones, and complex ones as pairs of them."""
    tensors = [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, torch.Tensor)]
    real = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
    real = [t for t in real if t.is_floating_point()]
    share = max(1, MOST_ELEMENTS // max(1, len(real)))
    dense = [t.layout == torch.strided and not t.is_nested for t in real]
    large = sum(t.numel() for t, is_dense in zip(real, dense) if is_dense) > MOST_ELEMENTS
    return tuple(
        t.reshape(-1)[:share] if large and is_dense and t.numel() > share else t for t, is_dense in zip(real, dense)
    )


def _word(leaf: Any) -> Any:
    """Return a short word for a leaf."""
    if isinstance(leaf, torch.Tensor):
        return _Word(f"{str(leaf.dtype).removeprefix('torch.')}{list(leaf.shape)}")
    return _Word(f"{leaf:.4g}") if isinstance(leaf, float) else leaf


class _Word(str):
    """Be a string that shows without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
