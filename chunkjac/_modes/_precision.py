"""The lowest precision that a function computes in."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from chunkjac._zero_tensors import is_scaled_zero


class PrecisionSeen(TorchDispatchMode):
    """Note the largest machine epsilon among the results of all operations.

    A float64 function may compute in float32 inside, and autocast in bfloat16: a step for
    float64 would drown in that noise.

    Attributes:
        eps: The largest epsilon so far; 0 before the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.eps = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at what it made."""
        if is_scaled_zero(func, args):
            return args[0]
        made = func(*args, **(kwargs or {}))
        if not any(isinstance(value, torch.Tensor) and value.dtype.is_floating_point for value in args):
            return made  # a constant: its precision is not that of the computation
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, torch.Tensor) and value.dtype.is_floating_point:
                self.eps = max(self.eps, torch.finfo(value.dtype).eps)
        return made
