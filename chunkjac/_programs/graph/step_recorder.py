"""What depends on the seeds, recorded with the values of now that it uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from chunkjac._programs.graph.graph import Graph, Node
from chunkjac._programs.graph.recorder import NotLinearError, Recorder, memory_or_none, recorded_by
from chunkjac._programs.graph.script import Call, Follower, Script, kind_of, look_of, told, told_by_name
from chunkjac._tensors import Tensors, tensors_among


class StepRecorder(Recorder):
    """Record what depends on the seeds only: what else it uses is a constant, with the value that it has now.

    So values may be read of all that does not depend on seeds, and decide what is done: the recording is of now, and
    is made anew in each run.
    """

    def __init__(self, seeds: Tensors, *, renews: bool) -> None:
        super().__init__(seeds, seeds, {}, renews=renews)
        self._calls: list[Call] = []
        self._parted: list[torch.Tensor] = []
        self._n_made = 0
        self._numbers: dict[Node, int] = {}
        for tensor in seeds:
            self._number(tensor)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an operation on what depends on the seeds; run any other."""
        tensors, kind = tensors_among((*args, *kwargs.values())), kind_of(func)
        if any(tensor in self.node_of for tensor in tensors):
            return self._called(func, args, kwargs)
        if kind.draws:
            raise NotLinearError(f"it draws random numbers ({func})")
        if kind.reshapes:
            self._part_with(tensors)
        elif kind.writes and not self._held.isdisjoint(map(memory_or_none, tensors)):
            raise NotLinearError(f"it writes to what a derivative uses ({func})")
        return func(*args, **kwargs)

    def script(self, ends: Sequence[torch.Tensor]) -> Script:
        """Return the calls, and what they end in."""
        numbers = tuple(map(self._number, ends))
        last = {number: i for i, call in enumerate(self._calls) for number in (*call.made, *_numbers_in(call))}
        dead: dict[int, list[int]] = {}
        for number, i in last.items():
            if number > 0 and number not in numbers:
                dead.setdefault(i, []).append(number)
        calls = [replace(call, dead=tuple(dead.get(i, ()))) for i, call in enumerate(self._calls)]
        return Script(calls, [*map(look_of, self._constants.values())], numbers)

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an operation, and its call."""
        if kind_of(func).asks_for_looks:
            return func(*args, **kwargs)
        told_args = tuple(told(arg, self._number) for arg in args)
        told_kwargs = told_by_name(kwargs, self._number)
        made = super().run(func, args, kwargs)
        self._calls.append(Call(func, told_args, told_kwargs, tuple(map(self._number, tensors_among((made,))))))
        return made

    def _number(self, tensor: torch.Tensor) -> int:
        """Return a tensor's number in the script."""
        node = self._node(tensor)
        if node not in self._numbers and node in self._constants:
            self._numbers[node] = -len(self._constants)
        elif node not in self._numbers:
            self._n_made += 1
            self._numbers[node] = self._n_made
        return self._numbers[node]

    def _part_with(self, tensors: list[torch.Tensor]) -> None:
        """Keep constants as they are, whose tensors get another shape; they are others from then on."""
        for tensor in tensors:
            node = self._constant_of.pop(id(tensor), None)
            if node is not None:
                self._constants[node] = tensor.detach()
                self._parted.append(tensor)  # so that its id stays its own


@dataclass(frozen=True, slots=True)
class Step:
    """Hold a recording of now.

    Attributes:
        graph: What depends on the seeds; its constants are the values that it used beside them.
        script: Its calls.
        made: What it gave.
    """

    graph: Graph
    script: Script
    made: Tensors

    @property
    def values(self) -> Tensors:
        """Return what it uses beside the seeds."""
        return tuple(self.graph.constants.values())


def recorded_step(run: Callable[[], Tensors], seeds: Tensors) -> Step:
    """Record what depends on seeds.

    Raises:
        NotLinearError: It draws random numbers, reads values of what seeds change, or writes to tensors from outside.
    """
    recorder, graph, made = recorded_by(partial(StepRecorder, seeds), run)
    return Step(graph, recorder.script(made), tuple(value.detach() for value in made))


def followed_step(run: Callable[[], Tensors], seeds: Tensors, script: Script) -> tuple[Tensors, Tensors] | None:
    """Run what was recorded before; return the values that it uses now, and what it gave; ``None`` for other calls."""
    with Follower(script, seeds) as follower:
        made = run()
    values = follower.values(made)
    return None if values is None else (values, tuple(value.detach() for value in made))


def _numbers_in(call: Call) -> list[int]:
    """Return the numbers of tensors among a call's arguments."""
    found: list[int] = []
    ahead: list[Any] = [*call.args, *(value for _, value in call.kwargs)]
    while ahead:
        part = ahead.pop()
        if isinstance(part, int):
            found.append(part)
        elif isinstance(part, tuple) and part[0] in (tuple, list):
            ahead += part[1:]
    return found
