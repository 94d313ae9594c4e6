"""A flat program of tensor operations: nodes in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Layout:
    """Hold what is known of a tensor without its values."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Layout:
        """Describe a tensor."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    def empty(self) -> torch.Tensor:
        """Return new memory for such a tensor."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device=self.device)

    def reshaped(self, shape: Sequence[int]) -> Layout:
        """Return the layout of another tensor of this dtype and device, its elements in order."""
        strides = [prod(shape[dim + 1 :]) for dim in range(len(shape))]
        return replace(self, shape=torch.Size(shape), strides=tuple(strides))

    @property
    def is_contiguous(self) -> bool:
        """Tell whether elements lie in memory in their order, one after the other."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides)):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    @property
    def n_bytes(self) -> int:
        """Return the bytes from the first element to the last."""
        if not self.shape.numel():
            return 0
        reach = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides))
        return (reach + 1) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Node:
    """Hold one operation, or one tensor that is given.

    Attributes:
        func: The operation; ``None`` for a tensor that is given.
        args: Its arguments, in which nodes stand for tensors.
        kwargs: Its arguments by name.
        layout: What its result looks like; ``None`` if that is a tuple.
        varies: Whether it depends on the seeds.
        memory: The node whose memory it shares; ``None`` if it has its own.
        writes: The node whose memory it writes to; ``None`` if it writes to none.
    """

    func: Callable[..., Any] | None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    layout: Layout | None = None
    varies: bool = False
    memory: Node | None = None
    writes: Node | None = None

    def __repr__(self) -> str:
        """Name the operation, without all that it depends on."""
        return f"<{self.func or 'given'} at {id(self):x}>"

    @property
    def root(self) -> Node:
        """Return the node that owns the memory."""
        return self if self.memory is None else self.memory

    @property
    def tensor_layout(self) -> Layout:
        """Return the layout of a result that is a tensor."""
        assert self.layout is not None
        return self.layout

    @property
    def operands(self) -> list[Node]:
        """Return the nodes among its arguments."""
        found: list[Node] = []
        for part in (*self.args, *self.kwargs.values()):
            if isinstance(part, Node):
                found.append(part)
            elif isinstance(part, (tuple, list)):
                found += [inner for inner in part if isinstance(inner, Node)]
        return found

    def with_operands(self, stands_for: Mapping[Node, Node]) -> Node:
        """Return the same operation on what stands for its operands; those that are not there stand for themselves."""

        def found(node: Node) -> Node:
            return stands_for.get(node, node)

        return replace(
            self,
            args=_exchanged(self.args, found),
            kwargs={key: _exchanged(value, found) for key, value in self.kwargs.items()},
            memory=None if self.memory is None else found(self.memory).root,
            writes=None if self.writes is None else found(self.writes),
        )


@dataclass(frozen=True, slots=True)
class Graph:
    """Hold a program.

    Attributes:
        nodes: The operations, in their order.
        given: The nodes of what the program is given.
        constants: The tensors that it was seen to use besides.
        outputs: The nodes of what it returns.
    """

    nodes: tuple[Node, ...]
    given: tuple[Node, ...]
    constants: Mapping[Node, torch.Tensor]
    outputs: tuple[Node, ...]

    def live(self) -> Graph:
        """Return the same without the operations and constants that no output depends on."""
        nodes = live_nodes(self.nodes, self.outputs)
        used = {operand for node in nodes for operand in node.operands} | set(self.outputs)
        constants = {node: tensor for node, tensor in self.constants.items() if node in used}
        return replace(self, nodes=nodes, constants=constants)

    def rewritten(self, exchange: Callable[[Node, Node], Sequence[Node]]) -> Graph:
        """Return a graph in which other operations stand for some.

        Args:
            exchange: Takes an operation, and the same on what stands for its operands; returns what is to be run in its
                place, the last of which gives its result.
        """
        stands_for: dict[Node, Node] = {}
        nodes: list[Node] = []
        for node in self.nodes:
            made = exchange(node, node.with_operands(stands_for))
            stands_for[node] = made[-1]
            nodes += made
        return replace(self, nodes=tuple(nodes), outputs=tuple(stands_for.get(node, node) for node in self.outputs))


def _exchanged(value: Any, found: Callable[[Node], Any]) -> Any:
    """Return arguments with nodes replaced by what is found for them."""
    if isinstance(value, Node):
        return found(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_exchanged(part, found) for part in value])
    return value


def run_node(node: Node, values: Mapping[Node, Any]) -> Any:
    """Run an operation on what stands for its arguments."""
    assert node.func is not None
    args = [_exchanged(part, values.__getitem__) for part in node.args]
    return node.func(*args, **{key: _exchanged(part, values.__getitem__) for key, part in node.kwargs.items()})


def run_all(nodes: Sequence[Node], values: Mapping[Node, Any], needed: set[Node]) -> dict[Node, Any]:
    """Run operations one after the other; return the needed values, and let go of others after their last use."""
    env = dict(values)
    last = {operand: i for i, node in enumerate(nodes) for operand in node.operands}
    for i, node in enumerate(nodes):
        env[node] = run_node(node, env)
        for operand in {*node.operands} - needed:
            if last[operand] == i:
                del env[operand]
    return {node: env[node] for node in needed if node in env}


def written_memory(nodes: Iterable[Node]) -> set[Node]:
    """Return the roots of all memory that is written to after it was made."""
    return {node.writes.root for node in nodes if node.writes is not None}


def live_nodes(nodes: Sequence[Node], wanted: Iterable[Node]) -> tuple[Node, ...]:
    """Return the operations that the wanted nodes depend on, also by what is written to their memory."""
    needed = set(wanted)
    memory = {node.root for node in needed}
    kept = []
    for node in reversed(nodes):
        if node in needed or (node.writes is not None and node.writes.root in memory):
            kept.append(node)
            needed.update(node.operands)
            memory.update(operand.root for operand in node.operands)
    return tuple(reversed(kept))
