"""What a function may change, as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Set
from operator import is_
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from chunkjac._problem.effects.claims import Claims
from chunkjac._problem.write_watcher import WriteWatcher
from chunkjac._tensors import memory_of

# What was changed: a parameter or buffer that is another tensor, a tensor's `data`, or memory that was written to.
Change = tuple[Any, ...]


class Found:
    """Hold the parameters and buffers of modules, what tensors had as ``data``, and what was in memory before a write.

    Args:
        modules: The modules.
        claims: Takes the memory that is written to.

    Attributes:
        watcher: What copies memory before it is written to, while it is on.
    """

    def __init__(self, modules: list[nn.Module], claims: Claims | None = None) -> None:
        self.watcher = WriteWatcher(claims)
        self._modules = modules
        # Those of compiled modules (torch.jit) are no dictionaries, and cannot be replaced.
        held: Iterator[Any] = (each for module in modules for each in (module._parameters, module._buffers))
        self._buffers = [(current, dict(current)) for current in held if isinstance(current, dict)]

    def changed(self) -> set[Change]:
        """Return what is not as it was found."""
        buffers = {
            ("buffer", i, name)
            for i, (current, before) in enumerate(self._buffers)
            if current or before  # most have none
            if len(current) != len(before) or not all(map(is_, current.values(), before.values()))
            for name in current.keys() | before.keys()
            if current.get(name) is not before.get(name)
        }
        moved = {("data", number) for number in self.watcher.moved}
        return {*buffers, *moved, *(("memory", memory) for memory in self.watcher.written)}

    def statistics(self) -> set[Change]:
        """Return the memory of running statistics: what is written there is no beginning of anything."""
        norms = (module for module in self._modules if isinstance(module, _NormBase))
        held = (tensor for norm in norms for tensor in norm._buffers.values() if tensor is not None)
        return {("memory", memory_of(tensor)) for tensor in held}

    def memories_of(self, changes: Set[Change]) -> set[Change]:
        """Return the memory of tensors that were exchanged for others: a later evaluation writes to those instead."""
        tensors = [
            before.get(name)
            for i, (_, before) in enumerate(self._buffers)
            for name in before
            if ("buffer", i, name) in changes
        ]
        tensors += [data for number, (_, data) in self.watcher.moved.items() if ("data", number) in changes]
        return {("memory", memory_of(tensor)) for tensor in tensors if tensor is not None}

    def put_back(self, changes: Set[Change]) -> None:
        """Put back some of what was changed; done twice, it is as if done once."""
        for i, (current, before) in enumerate(self._buffers if changes else ()):
            for name in current.keys() | before.keys():
                if ("buffer", i, name) in changes and name in before:
                    current[name] = before[name]
                elif ("buffer", i, name) in changes:
                    current.pop(name, None)
        for number, (tensor, data) in self.watcher.moved.items():
            if ("data", number) in changes:
                tensor.data = data
        memories = {change[1] for change in changes if change[0] == "memory"}
        if memories:
            self.watcher.restore(memories)

    def exchange(self) -> None:
        """Give modules and tensors what is held, and hold theirs; done twice, nothing happened."""
        for i, (current, others) in enumerate(self._buffers):
            if [*map(id, current.values())] != [*map(id, others.values())] or current.keys() != others.keys():
                self._buffers[i] = current, dict(current)
                current.clear()
                current.update(others)
        self.watcher.exchange()
