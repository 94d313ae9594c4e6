"""The values that travel between the parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import TreeSpec

MODES = ("auto", "reverse", "forward", "finite-difference")


@dataclass(frozen=True, slots=True)
class Leaf:
    """Hold what is known of one tensor among the inputs or outputs."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Leaf:
        """Describe a tensor."""
        return cls(tensor.shape, tensor.dtype, tensor.device)

    @property
    def numel(self) -> int:
        """Return the number of elements."""
        return self.shape.numel()

    @property
    def n_bytes(self) -> int:
        """Return the bytes of the elements."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Outputs:
    """Hold what one evaluation told: the outputs' tree and shapes, and the auxiliary result."""

    leaves: tuple[Leaf, ...]
    spec: TreeSpec
    aux: Any = None
