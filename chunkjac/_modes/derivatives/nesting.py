"""Whether a function differentiates something itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class NestingWatcher(TorchFunctionMode):
    """Note whether operations run within more transforms of torch.func than when this was made.

    Attributes:
        seen: Whether any has.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen = False
        self._depth = _depth()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look how deep an operation is."""
        self.seen = self.seen or _depth() > self._depth
        return func(*args, **(kwargs or {}))


def _depth() -> int:
    """Return how many transforms are under way."""
    return len(torch._C._functorch.get_interpreter_stack() or ())
