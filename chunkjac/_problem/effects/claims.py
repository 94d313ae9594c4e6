"""Who writes to memory that several threads share: one of them at a time."""

from __future__ import annotations

import threading

_changed = threading.Condition()
_holders: dict[int, int] = {}  # threads, by the memory that they write to


class Claims:
    """Hold memory against other threads' jobs; what this thread holds already stays with whom it belongs to."""

    def __init__(self) -> None:
        self._memories: list[int] = []

    def claim(self, memory: int) -> None:
        """Wait until no other thread holds a piece of memory, and hold it."""
        this = threading.get_ident()
        with _changed:
            _changed.wait_for(lambda: _holders.get(memory, this) == this)
            if memory not in _holders:
                _holders[memory] = this
                self._memories.append(memory)

    def release(self) -> list[int]:
        """Let others have all; return what was held."""
        memories, self._memories = self._memories, []
        if memories:
            with _changed:
                for memory in memories:
                    del _holders[memory]
                _changed.notify_all()
        return memories
