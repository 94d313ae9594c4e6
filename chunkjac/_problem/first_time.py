"""What is done for the first evaluation of a function, and for no other."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any


class FirstTime:
    """Enter a context manager until it has been left once without an exception.

    Args:
        manager: What is entered.
    """

    def __init__(self, manager: AbstractContextManager[Any]) -> None:
        self._manager = manager
        self._is_done = False
        self._is_within = False

    def __enter__(self) -> None:
        """Enter, if that is still to be done."""
        self._is_within = not self._is_done
        if self._is_within:
            self._manager.__enter__()

    def __exit__(self, kind: type[BaseException] | None, *failure: Any) -> None:
        """Leave what was entered."""
        if self._is_within:
            self._is_done, self._is_within = kind is None, False
            self._manager.__exit__(kind, *failure)
