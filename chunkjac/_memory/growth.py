"""What is alive between chunks must not rise, unless the function keeps tensors."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from chunkjac._memory.tracker import LiveBytes
from chunkjac._units import format_bytes

# Chunks without a rise after which a rise counts as the last.
_SUSPICIOUS = 4


class Growth:
    """Watch what is alive between chunks.

    A chunk for which no buffer had to be made leaves as much alive as it found. What is more is
    either garbage in cycles, which goes when it is collected, or kept by the function. Python's own
    collection waits while a chunk is measured, or it would hide the first. Collecting takes
    50-150 ms, so it is done once to tell the two apart, and then only where room is short.

    Args:
        tracker: What counts live bytes.

    Attributes:
        start_bytes: What was alive before the first chunk.
        growths_bytes: What each chunk left alive that had not been alive before it, where that
            can be told.
    """

    def __init__(self, tracker: LiveBytes) -> None:
        self.start_bytes = tracker.live_bytes
        self.growths_bytes: list[int] = []
        self._tracker = tracker
        self._buffered = 0  # the largest chunk for which buffers are there
        self._n_suspicious = 0  # how many chunks without a rise are still to be seen
        self._is_garbage: bool | None = None  # whether what rises is garbage, once that was found out

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Measure a chunk: live bytes are counted, and only the chunk itself lets go of any."""
        collects = gc.isenabled()
        gc.disable()
        try:
            with self._tracker:
                yield
        finally:
            if collects:
                gc.enable()

    def forget_buffers(self) -> None:
        """Note that buffers were given back."""
        self._buffered = 0

    def grows(self, size: int, before_bytes: int) -> bool | None:
        """Tell whether chunks leave more alive than they find; ``None`` if that cannot be told.

        Some functions keep tensors at every second call, or third: after a rise, it takes several
        chunks without one to believe that there are no more.

        Args:
            size: The chunk's directions.
            before_bytes: What was alive before it.
        """
        if size > self._buffered:
            self._buffered = size
            return None
        rises = self._tracker.live_bytes > before_bytes
        held_bytes = self._tracker.peak_bytes - self.start_bytes
        if rises and (self._is_garbage is None or self._tracker.spare_bytes - held_bytes < held_bytes):
            gc.collect()
            self._is_garbage = self._tracker.live_bytes <= before_bytes
        kept = rises and not self._is_garbage
        self.growths_bytes.append(max(0, self._tracker.live_bytes - before_bytes) if kept else 0)
        self._n_suspicious = _SUSPICIOUS if rises else max(0, self._n_suspicious - 1)
        return self._n_suspicious > 0

    @property
    def growth_bytes(self) -> int:
        """Return what the function kept in all, as far as it was seen."""
        return sum(self.growths_bytes)

    @property
    def symptom(self) -> str | None:
        """Name what a function does that keeps tensors; ``None`` if it does not, or no longer (a cache)."""
        latest = max(self.growths_bytes[-_SUSPICIOUS:], default=0)
        if not latest:
            return None
        return (
            f"func keeps memory: {format_bytes(latest)} more were alive after a chunk than before it, "
            f"{format_bytes(self.growth_bytes)} in all; it may collect tensors in a list, a cache or a hook"
        )
