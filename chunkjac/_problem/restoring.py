"""A call leaves what it found: buffers, and tensors that the function writes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from chunkjac._problem.problem import Problem
from chunkjac._problem.write_watcher import WriteWatcher


class LeftAsFound:
    """Hold what there was before a function was evaluated, or, while that is back in place, what it has made of it.

    The function runs once in reverse mode and many times in others; what it leaves behind would
    tell of that. Enter the watcher that is given for the first evaluation.

    Args:
        problem: The function.
    """

    def __init__(self, problem: Problem) -> None:
        self._watcher = WriteWatcher()
        # Those of compiled modules (torch.jit) are no dictionary, and cannot be replaced.
        found = (module._buffers for module in problem.modules)
        self._buffers = [(buffers, dict(buffers)) for buffers in found if isinstance(buffers, dict)]

    def __enter__(self) -> WriteWatcher:
        """Return what is to look at the first evaluation."""
        return self._watcher

    def __exit__(self, *_: Any) -> None:
        """Put all back."""
        self._exchange_buffers()
        self._watcher.restore()

    @contextmanager
    def back_in_place(self) -> Iterator[None]:
        """Put modules and tensors back for a while; what they become meanwhile is what is found from then on."""
        self._exchange_buffers()
        self._watcher.exchange()
        try:
            yield
        finally:
            self._exchange_buffers()
            self._watcher.exchange()

    def _exchange_buffers(self) -> None:
        """Give modules the buffers that are held, and hold theirs."""
        for i, (current, others) in enumerate(self._buffers):
            if not (current or others):
                continue
            if [*map(id, current.values())] != [*map(id, others.values())] or current.keys() != others.keys():
                self._buffers[i] = current, dict(current)
                current.clear()
                current.update(others)
