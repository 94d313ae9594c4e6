"""Calls of operations that depend on the seeds, and whether another run makes the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from chunkjac._memory import OperationMode
from chunkjac._programs.graph.graph import Layout
from chunkjac._tensors import Tensors, memory_of, tensors_among


@dataclass(frozen=True, slots=True)
class Call:
    """Hold a call of an operation, with numbers in place of tensors.

    Attributes:
        func: The operation.
        args: Its arguments, told by :func:`told`.
        kwargs: Its arguments by name, told likewise.
        made: The numbers of the tensors that it makes.
        dead: The numbers of those that are not used afterwards.
    """

    func: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    made: tuple[int, ...]
    dead: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Script:
    """Hold all calls.

    Seeds have numbers from one on, and so has all that is made of them; what is used beside it has negative numbers, in
    the order of its first use.

    Attributes:
        calls: The calls.
        layouts: What the tensors are like that are used beside the seeds.
        ends: The numbers of what is returned.
    """

    calls: Sequence[Call]
    layouts: Sequence[Layout | torch.layout]
    ends: tuple[int, ...]


def told(value: Any, number_of: Callable[[torch.Tensor], int]) -> Any:
    """Return an argument so that it is equal for equal arguments only.

    1, 1.0 and True are equal in Python, as are 0.0 and -0.0; and NaN is not equal to itself.
    """
    if isinstance(value, torch.Tensor):
        return number_of(value)
    if isinstance(value, (tuple, list)):
        return (type(value), *[told(part, number_of) for part in value])
    return type(value), repr(value) if isinstance(value, (float, complex)) else value


def told_by_name(kwargs: Mapping[str, Any], number_of: Callable[[torch.Tensor], int]) -> tuple[tuple[str, Any], ...]:
    """Return arguments by name likewise."""
    return tuple((name, told(value, number_of)) for name, value in kwargs.items())


def look_of(tensor: torch.Tensor) -> Layout | torch.layout:
    """Return what a tensor is like that calls use."""
    return Layout.of(tensor) if tensor.layout == torch.strided else tensor.layout


class Follower(OperationMode):
    """Watch whether a run makes the calls of a script, and keep what they use beside the seeds.

    Looking takes a fourth of what recording takes.

    Args:
        script: The calls.
        seeds: The seeds.
    """

    def __init__(self, script: Script, seeds: Tensors) -> None:
        super().__init__()
        self._script = script
        self._next = 0
        self._is_same = True
        self._values: list[torch.Tensor] = []
        self._number_of = {id(tensor): number for number, tensor in enumerate(seeds, 1)}
        self._alive: dict[int, torch.Tensor] = dict(enumerate(seeds, 1))  # so that their ids are theirs
        self._constant_of: dict[int, int] = {}
        self._parted: list[torch.Tensor] = []

    def values(self, made: Tensors) -> Tensors | None:
        """Return what was used beside the seeds; ``None`` if other calls were made.

        Args:
            made: What the run has returned.
        """
        is_whole = self._is_same and self._next == len(self._script.calls)
        if not is_whole or tuple(self._number(tensor) for tensor in made) != self._script.ends or not self._is_same:
            return None
        return tuple(self._values)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation, and compare it with the next call if it depends on the seeds."""
        if not self._is_same:
            return func(*args, **kwargs)
        tensors = tensors_among((*args, *kwargs.values()) if kwargs else args)
        kind = kind_of(func)
        if kind.asks_for_looks:
            return func(*args, **kwargs)
        if any(id(tensor) in self._number_of for tensor in tensors):
            return self._compared(func, args, kwargs)
        if kind.reshapes:
            self._part_with(tensors)
        elif kind.draws or (kind.writes and self._uses(tensors)):
            self._is_same = False  # only recording tells what that means
        return func(*args, **kwargs)

    def _compared(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the next call, if it is that."""
        calls = self._script.calls
        call = calls[self._next] if self._next < len(calls) else None
        self._next += 1
        self._is_same = (
            call is not None
            and func is call.func
            and tuple(told(arg, self._number) for arg in args) == call.args
            and told_by_name(kwargs, self._number) == call.kwargs
            and self._is_same
        )
        made = func(*args, **kwargs)
        if call is not None and self._is_same:
            for number, tensor in zip(call.made, tensors_among((made,))):
                self._number_of[id(tensor)], self._alive[number] = number, tensor
            for number in call.dead:
                dead = self._alive.pop(number)
                if self._number_of.get(id(dead)) == number:
                    del self._number_of[id(dead)]
        return made

    def _number(self, tensor: torch.Tensor) -> int:
        """Return a tensor's number; one that does not depend on the seeds gets its own when it is first used."""
        number = self._number_of.get(id(tensor)) or self._constant_of.get(id(tensor))
        if number is not None:
            return number
        i, looks = len(self._values), self._script.layouts
        self._is_same = self._is_same and i < len(looks) and look_of(tensor) == looks[i]
        self._values.append(tensor)
        self._constant_of[id(tensor)] = -i - 1
        return -i - 1

    def _part_with(self, tensors: list[torch.Tensor]) -> None:
        """Keep values as they are, whose tensors get another shape; they are others from then on."""
        for tensor in tensors:
            number = self._constant_of.pop(id(tensor), None)
            if number is not None:
                self._parted.append(tensor)  # so that its id stays its own
                self._values[-number - 1] = tensor.detach()

    def _uses(self, tensors: list[torch.Tensor]) -> bool:
        """Tell whether calls use one of some tensors, or its memory."""
        used = {memory_of(value) for value in self._values if value.layout == torch.strided}
        return any(tensor.layout != torch.strided or memory_of(tensor) in used for tensor in tensors)


@dataclass(frozen=True, slots=True)
class Kind:
    """Hold what an operation does, whatever its arguments.

    Attributes:
        asks_for_looks: Whether it makes no tensor, and goes by no values: it tells whether sizes are the same, say.
        draws: Whether it draws random numbers.
        reshapes: Whether it changes a tensor's shape.
        writes: Whether it writes to a tensor.
    """

    asks_for_looks: bool
    draws: bool
    reshapes: bool
    writes: bool


@cache
def kind_of(func: Any) -> Kind:
    """Return what an operation does; of one without a schema nothing is known, and it may do anything."""
    if not hasattr(func, "_schema"):
        return Kind(asks_for_looks=False, draws=True, reshapes=False, writes=True)
    schema, tags = func._schema, func.tags
    makes = schema.is_mutable or any("Tensor" in str(returned.type) for returned in schema.returns)
    return Kind(
        asks_for_looks=not makes and torch.Tag.data_dependent_output not in tags,
        draws=torch.Tag.nondeterministic_seeded in tags,
        reshapes=torch.Tag.inplace_view in tags,
        writes=schema.is_mutable,
    )
