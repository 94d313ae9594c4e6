"""Two buffers in turn: one is computed into while the other one is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue

import torch

from chunkjac._problem import Leaf
from chunkjac._tensors import Tensors

N_BUFFERS = 2


class Staging:
    """Lend buffers on the host, page-locked where an accelerator copies into them.

    Args:
        leaves: What a direction has values for.
        device: Where those come from.
    """

    def __init__(self, leaves: Sequence[Leaf], device: torch.device) -> None:
        self._leaves = leaves
        self._is_pinned = device.type == "cuda"
        self._free: SimpleQueue[Tensors] = SimpleQueue()
        self._n_rows = 0
        self._held: Tensors | None = None

    def take(self, n_rows: int) -> Tensors:
        """Return buffers for so many directions, the same ones until they are handed on; wait until there are some."""
        if n_rows > self._n_rows:
            self.release()
            self._make(n_rows)
        if self._held is None:
            self._held = self._free.get()
        return tuple(buffer[:n_rows] for buffer in self._held)

    def hand_on(self) -> Callable[[], None]:
        """Give up the buffers that were taken; return what is to be called when they may be used again."""
        held, self._held = self._held, None
        assert held is not None
        return lambda: self._free.put(held)

    def release(self) -> None:
        """Let go of the buffers, as soon as they have come back."""
        n_away = N_BUFFERS if self._n_rows else 0
        if self._held is not None:
            n_away, self._held = n_away - 1, None
        for _ in range(n_away):
            self._free.get()
        self._n_rows = 0

    def _make(self, n_rows: int) -> None:
        """Make all buffers, so that what is alive does not grow from chunk to chunk."""
        made = [
            tuple(
                torch.empty((n_rows, *leaf.shape), dtype=leaf.dtype, device="cpu", pin_memory=self._is_pinned)
                for leaf in self._leaves
            )
            for _ in range(N_BUFFERS)
        ]
        for buffers in made:
            self._free.put(buffers)
        self._n_rows = n_rows
