"""What a function does, recorded operation by operation while it runs on real tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import getitem
from typing import Any, TypeVar

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from chunkjac._memory import OperationMode
from chunkjac._programs.graph.functional import functional_of, reads_values, strided_from
from chunkjac._programs.graph.graph import Graph, Layout, Node
from chunkjac._programs.graph.script import kind_of
from chunkjac._tensors import memory_of, tensors_among

Rule = Callable[..., Any]

R = TypeVar("R", bound="Recorder")


class NotLinearError(Exception):
    """Say why a function cannot be replayed."""


class StaleError(Exception):
    """Say that memory is seen under an old name after it was written to: it must really be written to."""


class Recorder(OperationMode):
    """Record operations, below every transform: inside ``vmap``, ``vjp``, ``jvp`` and backward passes.

    All of it is to be replayed, so nothing may be decided by values: reading one is refused, unless it is made of
    numbers alone.

    Args:
        given: The tensors that are others in each replay.
        varying: Those of them that are seeds.
        rules: For operations on what depends on the seeds: what to run in their place. A rule
            returns ``NotImplemented`` where it does not apply.
        renews: Whether writing to the whole of a tensor is recorded as making a new one, which is
            the same unless another view of its memory is used afterwards.

    Attributes:
        node_of: The node of each tensor that is alive.
    """

    def __init__(
        self,
        given: Sequence[torch.Tensor],
        varying: Sequence[torch.Tensor],
        rules: Mapping[Any, Rule],
        *,
        renews: bool = True,
    ) -> None:
        super().__init__()
        self.supports_higher_order_operators = False  # they read values where no mode is on
        self.node_of = WeakTensorKeyDictionary()
        self._rules = rules
        self._renews = renews
        self._stale: set[Node] = set()
        self._nodes: list[Node] = []
        self._constants: dict[Node, torch.Tensor] = {}
        self._constant_of: dict[int, Node] = {}
        self._held: set[int | None] = set()  # the memory of constants
        seeds = {id(tensor) for tensor in varying}
        self._given = tuple(Node(None, layout=_layout_of(t), varies=id(t) in seeds) for t in given)
        for tensor, node in zip(given, self._given):
            self.node_of[tensor] = node

    def graph(self, outputs: Sequence[torch.Tensor]) -> Graph:
        """Return what was recorded."""
        ends = tuple(self._node(x) for x in outputs)
        self._check_fresh(ends)
        return Graph(tuple(self._nodes), self._given, self._constants, ends)

    def _check_fresh(self, nodes: Sequence[Node]) -> None:
        """Refuse nodes whose memory was written to since."""
        if any(node.root in self._stale for node in nodes):
            raise StaleError

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, or what a rule has in its place, and record it."""
        tensors = tensors_among((*args, *kwargs.values()))
        if kind_of(func).asks_for_looks:
            return func(*args, **kwargs)
        operands = [self._node(tensor) for tensor in tensors]
        self._check_fresh(operands)
        varies = any(node.varies for node in operands)
        rule = self._rules.get(func) if varies else None
        if rule is not None:
            with self:
                made = rule(*args, **kwargs)
            if made is not NotImplemented:
                return made
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotLinearError(f"it draws random numbers ({func})")
        if reads_values(func, tensors) and not self._is_free(operands):
            raise NotLinearError(f"it reads values ({func})")
        made = func(*args, **kwargs)
        self._record(func, args, kwargs, made, tensors, varies)
        return made

    def _record(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        made: Any,
        tensors: list[torch.Tensor],
        varies: bool,
    ) -> None:
        """Add a node for an operation, and one for each tensor of a tuple."""
        if torch.Tag.inplace_view in func.tags:
            in_place, func = func, functional_of(func)
            if func is None:
                raise NotLinearError(f"it changes a tensor's shape in place ({in_place})")
        writes = self._written(func, args) if hasattr(func, "_schema") else None
        if writes is not None and self._renews and isinstance(made, torch.Tensor) and _is_whole(writes):
            functional = functional_of(func)
            if functional is not None:
                self._stale.add(writes.root)
                func, tensors, writes = functional, [], None
        if func is _AS_STRIDED:
            offset = made.storage_offset() - args[0].storage_offset()
            func, args, kwargs = strided_from, (*args[:3], offset), {}
        given_args = tuple(map(self._node_or_value, args))
        given_kwargs = {key: self._node_or_value(value) for key, value in kwargs.items()}
        if isinstance(made, torch.Tensor):
            memory = self._memory(made, tensors)
            node = Node(func, given_args, given_kwargs, Layout.of(made), varies, memory, writes)
            self._nodes.append(node)
            self.node_of[made] = node
        elif isinstance(made, (tuple, list)):
            shared = {i: self._memory(part, tensors) for i, part in enumerate(made) if isinstance(part, torch.Tensor)}
            if len(set(shared.values())) > 1:
                raise NotLinearError(f"it makes views and other tensors at once ({func})")
            memory = next(iter(shared.values()), None)
            node = Node(func, given_args, given_kwargs, None, varies, memory, writes)
            self._nodes.append(node)
            for i, part in enumerate(made):
                if isinstance(part, torch.Tensor):
                    item = Node(getitem, (node, i), {}, Layout.of(part), varies, memory)
                    self._nodes.append(item)
                    self.node_of[part] = item
        elif writes is not None:
            self._nodes.append(Node(func, given_args, given_kwargs, None, varies, None, writes))

    def _is_free(self, nodes: Sequence[Node]) -> bool:
        """Tell whether values depend on no tensor from outside: they are made of numbers (a causal mask, say)."""
        ahead, seen = [*nodes], set(nodes)
        while ahead:
            node = ahead.pop()
            if node.func is None:
                return False
            writers = [other for other in self._nodes if other.writes is not None and other.writes.root is node.root]
            for operand in (*node.operands, *(part for writer in writers for part in writer.operands)):
                if operand not in seen:
                    seen.add(operand)
                    ahead.append(operand)
        return True

    def _written(self, func: Any, args: tuple[Any, ...]) -> Node | None:
        """Return what an operation writes to."""
        if not func._schema.is_mutable:
            return None
        target = args[0]
        if not isinstance(target, torch.Tensor):
            raise NotLinearError(f"it writes to several tensors ({func})")
        node = self._node(target)
        if node.root in self._constants or node.root in self._given:
            raise NotLinearError(f"it writes to a tensor from outside ({func})")
        return node

    def _memory(self, made: torch.Tensor, tensors: list[torch.Tensor]) -> Node | None:
        """Return the owner of a result's memory, if that is an argument's."""
        if made.layout != torch.strided:
            raise NotLinearError(f"it makes a tensor that is not dense ({made.layout})")
        shared = (t for t in tensors if t.layout == torch.strided and memory_of(t) == memory_of(made))
        owner = next(shared, None)
        return None if owner is None else self._node(owner).root

    def _node_or_value(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._node(value)
        return type(value)(map(self._node_or_value, value)) if type(value) in (tuple, list) else value

    def _node(self, tensor: torch.Tensor) -> Node:
        """Return a tensor's node; one that is not known is a constant."""
        node = self.node_of.get(tensor)
        if node is None:
            node = self._constant_of.get(id(tensor))
        if node is None:
            node = Node(None, layout=_layout_of(tensor))
            self._constant_of[id(tensor)] = node
            self._constants[node] = tensor
            self._held.add(memory_or_none(tensor))
        return node


def recorded(
    run: Callable[[], tuple[torch.Tensor, ...]],
    given: Sequence[torch.Tensor],
    varying: Sequence[torch.Tensor],
    rules: Mapping[Any, Rule],
) -> tuple[Graph, tuple[torch.Tensor, ...]]:
    """Record what runs; return that, and what it gave."""
    _, graph, made = recorded_by(partial(Recorder, given, varying, rules), run)
    return graph, made


def recorded_by(
    make: Callable[..., R], run: Callable[[], tuple[torch.Tensor, ...]]
) -> tuple[R, Graph, tuple[torch.Tensor, ...]]:
    """Record what runs by a kind of recorder; return that as well."""
    for renews in (True, False):
        try:
            with make(renews=renews) as recorder:
                made = run()
            return recorder, recorder.graph(made), made
        except StaleError:
            continue
    raise AssertionError("what is not renewed is not stale")


def _layout_of(tensor: torch.Tensor) -> Layout | None:
    """Return what a tensor is like; ``None`` if it is not dense."""
    return Layout.of(tensor) if tensor.layout == torch.strided else None


def memory_or_none(tensor: torch.Tensor) -> int | None:
    """Return the identity of the memory under a tensor; ``None`` if it is not dense."""
    return memory_of(tensor) if tensor.layout == torch.strided else None


def _is_whole(node: Node) -> bool:
    """Tell whether a node is all of its memory."""
    layout, root = node.layout, node.root.layout
    return (
        layout is not None
        and root is not None
        and layout.shape.numel() == root.shape.numel()
        and root.n_bytes == layout.shape.numel() * layout.dtype.itemsize
    )


_AS_STRIDED = torch.ops.aten.as_strided.default
