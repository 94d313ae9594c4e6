"""What is switched for the whole process while somebody needs it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack


class Switch:
    """Let something hold while any thread is within: what the first has found is set back by the last one that leaves.

    Args:
        turn: Switches it, and notes how to set that back.

    Attributes:
        n_within: How often it was entered, and not left yet.
    """

    def __init__(self, turn: Callable[[ExitStack], object]) -> None:
        self.n_within = 0
        self._turn, self._set_back, self._lock = turn, ExitStack(), threading.Lock()

    def __enter__(self) -> None:
        """Switch, unless that is done."""
        with self._lock:
            if not self.n_within:
                self._turn(self._set_back)
            self.n_within += 1

    def __exit__(self, *_: object) -> None:
        """Set back, unless somebody else is within."""
        with self._lock:
            self.n_within -= 1
            if not self.n_within:
                self._set_back.close()
