"""Whether Python has a say in what autograd does by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from chunkjac._programs.graph.recorder import Recorder


class QuietRecorder(Recorder):
    """Record without its own calls being taken for those of what it records."""

    def __torch_dispatch__(self, *call: Any, **kwargs: Any) -> Any:
        """Record an operation."""
        with torch._C.DisableTorchFunction():
            return super().__torch_dispatch__(*call, **kwargs)


class PythonCalls(TorchFunctionMode):
    """Tell whether Python calls torch within what autograd does by itself.

    Args:
        is_within: Whether all that comes is within; else only what comes within ``torch.autograd.grad``.

    Attributes:
        has_run: Whether that was so.
    """

    def __init__(self, *, is_within: bool = False) -> None:
        super().__init__()
        self.has_run = False
        self._is_within = is_within

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, and note it."""
        kwargs = kwargs or {}
        if self._is_within or func is not torch.autograd.grad:
            self.has_run = self.has_run or self._is_within
            return func(*args, **kwargs)
        ends, sources = args
        self._is_within = True
        try:
            with self:  # which `torch.autograd.grad` would leave
                return torch.autograd.graph._engine_run_backward(
                    ends,
                    kwargs["grad_outputs"],
                    True,  # keep the graph
                    kwargs["create_graph"],
                    sources,
                    allow_unreachable=True,
                    accumulate_grad=False,
                )
        finally:
            self._is_within = False
