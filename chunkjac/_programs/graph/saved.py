"""What autograd's graph saves: the values of now, without a look at each operation.

Theorem: the backward passes of torch's own nodes are functions of the seeds, and of what Python sees of the graph: its
nodes and edges, what they have saved, and what the results are like. Where all of that is the same but the numbers in
tensors, so are the operations. (What a node saves and does not show tells of its arguments: that is seen at the nodes
that made them.) Some graphs are left to those who look at operations: ``as_strided`` hides strides, nodes of others
than torch hide what they please, and Python may change gradients within (hooks, custom functions).

Reading takes 4 microseconds a node; looking at the operations of a backward pass takes 17 each (LSTM, GPT-2, Lorenz 96;
one thread, AMD EPYC, torch 2.13).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch

from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.python_calls import PythonCalls, QuietRecorder
from chunkjac._programs.graph.recorder import NotLinearError, recorded_by
from chunkjac._tensors import Tensors

# Nodes that torch generates from formulas, and that show all that matters.
_SHOWN = re.compile(r"(?!.*AsStrided).*Backward\d+(_copy)?")

_ATOMS, _PLAIN = {int, float, bool, complex, str, type(None)}, {torch.Tensor, torch.nn.Parameter}

_OWN: Any = torch._C._functions


@dataclass(frozen=True, slots=True)
class Autograd:
    """Hold a graph of autograd's, from its sources to its ends."""

    ends: Tensors
    sources: Tensors


@dataclass(frozen=True, slots=True)
class Saved:
    """Hold what a graph has saved.

    Attributes:
        look: Equal for graphs whose backward passes do the same, but for what single numbers say that stand in tensors.
        tensors: The sources, and what is saved, each memory once that is seen alike.
        numbers: Where they are among the tensors, by their places in memory.
    """

    look: Hashable
    tensors: Tensors
    numbers: Mapping[tuple[Hashable, ...], int]


@dataclass(frozen=True, slots=True)
class GraphReading:
    """Hold what a graph was like when a step through it was recorded, and which of what it saves are the step's values.

    Attributes:
        look: What the graph was like.
        places: Which of the tensors that were saved are the values.
        fixed: What the others say that may be numbers of Python's: operations are given them as such, not as tensors.
    """

    look: Hashable
    places: tuple[int, ...]
    fixed: Mapping[int, str]

    def again(self, run: Callable[[], Tensors], graph: Autograd | None) -> tuple[Tensors, Tensors] | None:
        """Run what was recorded; return the values that it uses now, and what it gave; ``None`` for another graph."""
        saved = None if graph is None else _saved_by(graph)
        if saved is None or saved.look != self.look:
            return None
        if any(_number_in(saved.tensors[place]) != number for place, number in self.fixed.items()):
            return None
        with PythonCalls() as python:
            made = run()
        if python.has_run:
            return None
        return tuple(saved.tensors[place] for place in self.places), tuple(value.detach() for value in made)


def saved_step(
    run: Callable[[], Tensors], seeds: Tensors, graph: Autograd
) -> tuple[Graph, Tensors, GraphReading] | None:
    """Record a step whose values can be read from the graph; ``None`` if there is none such.

    Returns:
        All that it does, with its values for constants; what it gave; how its values are read.

    Args:
        run: Sends seeds back through the graph.
        seeds: The seeds.
        graph: The graph.
    """
    if (saved := _saved_by(graph)) is None:
        return None
    try:
        with PythonCalls() as python:
            _, found, made = recorded_by(partial(QuietRecorder, seeds, seeds, {}), run)
        numbers = [saved.numbers.get(_place(tensor)) for tensor in found.constants.values()]
    except (NotLinearError, RuntimeError):
        return None
    if python.has_run:
        return None
    places = tuple(number for number in numbers if number is not None)
    if len(places) < len(numbers):
        return None
    fixed = {i: _number_in(x) for i, x in enumerate(saved.tensors) if _may_be_a_number(x) and i not in places}
    return found, tuple(value.detach() for value in made), GraphReading(saved.look, places, fixed)


def _saved_by(graph: Autograd) -> Saved | None:
    """Return what a graph has saved; ``None`` if that does not tell all."""
    tensors: list[torch.Tensor] = []
    numbers: dict[tuple[Hashable, ...], int] = {}

    def told(value: Any) -> Any:
        """Return a value whose text is equal for equal values only: a number in a list for a tensor."""
        kind = type(value)
        if kind is tuple:
            return value if _ATOMS.issuperset(map(type, value)) else (*map(told, value),)
        if kind in _ATOMS or not isinstance(value, torch.Tensor):
            return value
        number = numbers.setdefault(_place(value), len(tensors))
        if number == len(tensors):
            tensors.append(value)
        return [number]

    try:
        if (found := _nodes_of(graph)) is None:
            return None
        nodes, saved = found
        kind = graph.sources[0].device.type
        told_values = repr([*map(told, graph.sources), *map(told, saved)])
        setting = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    except RuntimeError:  # what was saved is there no more, or has no memory
        return None
    return Saved((setting, *nodes, told_values, *[place[1:] for place in numbers]), tuple(tensors), numbers)


def _nodes_of(graph: Autograd) -> tuple[list[Hashable], list[Any]] | None:
    """Return what nodes are, in an order that goes by edges, and what they have saved; ``None`` for hidden ones."""
    nodes: list[Any] = []
    numbers: dict[Any, int] = {None: -1}

    def number_of(node: Any) -> int:
        number = numbers.setdefault(node, len(nodes))
        if number == len(nodes):
            nodes.append(node)
        return number

    stops = {source.grad_fn: i for i, source in enumerate(graph.sources) if source.grad_fn is not None}
    leaves = {id(source): i for i, source in enumerate(graph.sources)}
    if any(end.requires_grad and end.grad_fn is None for end in graph.ends):
        return None
    look: list[Any] = [(number_of(end.grad_fn), end.output_nr) for end in graph.ends]
    saved: list[Any] = []
    with PythonCalls(is_within=True) as python:
        for node in nodes:  # which become more
            kind: Any = type(node)
            if kind is _OWN.AccumulateGrad:
                look.append(f"leaf {leaves.get(id(node.variable))}")
            elif node in stops:
                look.append(f"source {stops[node]}")
            else:
                if (names := _names_saved(kind)) is None:
                    return None
                look.append(kind)
                for ahead, number in node.next_functions:
                    look += number_of(ahead), number
                for part in node._input_metadata:
                    look += part.shape, part.dtype, part.device
                saved += [getattr(node, name) for name in names]
            if python.has_run:
                return None
    return look, saved


@cache
def _names_saved(kind: type) -> Sequence[str] | None:
    """Return the names of what a kind of node of torch's saves; ``None`` where it does not show all that matters."""
    if getattr(_OWN, kind.__name__, None) is not kind or not _SHOWN.fullmatch(kind.__name__):
        return None
    return [name for name in dir(kind) if name.startswith("_saved_")]


def _place(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    """Return what is equal for tensors that are the same memory seen alike.

    Raises:
        RuntimeError: It has no memory, or there is more to it.
    """
    if type(tensor) not in _PLAIN or tensor.is_conj() or tensor.is_neg():
        raise RuntimeError("not a plain tensor")
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _may_be_a_number(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor may be a number of Python's: those lie on the CPU, and depend on nothing."""
    return not (tensor.dim() or tensor.requires_grad) and tensor.device.type == "cpu"


def _number_in(tensor: torch.Tensor) -> str:
    """Return the single number that a tensor holds, so that equal ones are the same number."""
    return repr(tensor.item())
