"""What chunks of some sizes hold."""

from __future__ import annotations

from collections.abc import Iterable

from chunkjac._memory import LiveBytes, OverBudget
from chunkjac._modes import Mode
from chunkjac._sinks import buffer_bytes, witness_bytes


class Samples:
    """Measure chunks.

    Args:
        mode: What makes the blocks.
        tracker: What counts live bytes.
        has_buffers: Whether blocks lie in buffers until they are written.

    Attributes:
        held_bytes: What chunks hold above the level between chunks, their buffers included, by size.
        margin: How many times its tensors' bytes a chunk really takes.
    """

    def __init__(self, mode: Mode, tracker: LiveBytes, has_buffers: bool) -> None:
        self._mode, self._tracker = mode, tracker
        self._beside_bytes, self._fixed_bytes = (buffer_bytes(mode), witness_bytes(mode)) if has_buffers else (0, 0)
        self.held_bytes: dict[int, int] = {}
        self.margin = 1.0

    def take_some(self, sizes: Iterable[int]) -> None:
        """Measure chunks of a few sizes; where the larger do not fit, of the smaller."""
        for size in (min(size, self._mode.directions.n) for size in sizes):
            try:
                self.take(size)
            except OverBudget:
                break
        if sizes and not self.held_bytes:
            self.take(1)

    def take(self, size: int) -> None:
        """Measure a chunk."""
        self._mode.release()
        level_bytes = self._tracker.live_bytes
        self._tracker.restart_peak()
        self._mode.block(slice(0, size))
        self.held_bytes[size] = self._tracker.peak_bytes - level_bytes + size * self._beside_bytes + self._fixed_bytes
        self.margin = max(self.margin, self._tracker.margin)
