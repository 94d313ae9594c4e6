"""A new tensor on another device than the function's."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chunkjac._errors import BudgetError
from chunkjac._memory import free_memory
from chunkjac._modes import Mode, result_bytes
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.host import HostSink
from chunkjac._sinks.tensor import TensorSink
from chunkjac._units import format_bytes


@dataclass(frozen=True, slots=True)
class NewTensorElsewhere(Destination):
    """Allocate the result on a device, where it does not count.

    Attributes:
        device: That device.
    """

    device: torch.device

    @property
    def name(self) -> str:
        """Return what a plan calls it."""
        return f"a new tensor on {self.device}"

    def sink(self, mode: Mode, _allowance: Allowance) -> TensorSink:
        """Return what takes the blocks.

        Raises:
            BudgetError: The device has no room for the result; the message says how much there is.
        """
        needed_bytes, free_bytes = result_bytes(mode), free_memory(self.device).least.n_bytes
        if needed_bytes > free_bytes:
            raise BudgetError(
                f"the Jacobian takes {format_bytes(needed_bytes)}, and {self.device} has {format_bytes(free_bytes)}; "
                "give a path as out, or a callable.",
                free_bytes,
                needed_bytes,
            )
        copies = self.device.type == "cpu" and mode.problem.device.type == "cuda"
        return HostSink(mode) if copies else TensorSink(mode, device=self.device)
