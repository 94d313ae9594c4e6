"""What is known of inputs and outputs beside their values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import TreeSpec

from chunkjac._problem.checks import check_outputs


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

    def zeros(self, *ahead: int) -> torch.Tensor:
        """Return new zeros like it, with more dimensions ahead."""
        return torch.zeros((*ahead, *self.shape), dtype=self.dtype, device=self.device)

    def empty(self, *ahead: int) -> torch.Tensor:
        """Return new memory likewise."""
        return torch.empty((*ahead, *self.shape), dtype=self.dtype, device=self.device)


# Where a function has many operations, and all rows of one have so few elements, a call takes longer than what it
# computes. Those of forward mode take 4 times as long as those of reverse mode then (200 steps of a Runge-Kutta
# method on 8 numbers: 0.27 and 0.07 s).
_TINY_NUMEL = 2**14


@dataclass(frozen=True, slots=True)
class Outputs:
    """Hold what one evaluation told.

    Attributes:
        leaves: What is known of each output.
        spec: Their tree.
        aux: The auxiliary result.
        nodes: The names of the nodes of autograd's graph behind them; ``None`` where there was no graph.
        n_nodes: How many there are.
        node_numel: How many elements each makes, on average of some; ``None`` where nobody has looked.
        nests: Whether the function differentiates something itself; ``None`` where nobody has looked.
    """

    leaves: tuple[Leaf, ...]
    spec: TreeSpec
    aux: Any = None
    nodes: frozenset[str] | None = None
    n_nodes: int = 0
    node_numel: float | None = None
    nests: bool | None = None

    @classmethod
    def of(cls, leaves: Sequence[Any], spec: TreeSpec, aux: Any = None) -> Outputs:
        """Check flat outputs and describe them.

        Raises:
            FunctionError: An output is not a real, dense, floating-point tensor, or there are none.
        """
        check_outputs(leaves)
        return cls(tuple(Leaf.of(leaf) for leaf in leaves), spec, aux)

    def are_calls_all(self, n_directions: int) -> bool:
        """Tell whether a call of each operation takes longer than what it computes for so many directions."""
        return self.node_numel is not None and n_directions * self.node_numel <= _TINY_NUMEL


def alias_of(value: Any) -> Any:
    """Return another tensor over the same memory, so that a function may write to it.

    Within a transform of torch.func it may not write to what is captured, and without one it would pull the
    user's own tensor into its graph. One that requires grad stays itself, and cannot be written to.
    """
    if not isinstance(value, torch.Tensor) or value.requires_grad or value.layout != torch.strided:
        return value
    alias: torch.Tensor = torch.ops.aten.alias(value.detach())
    return alias


def without_graph(value: Any) -> Any:
    """Return a tensor without its graph, and all else as it is."""
    return value.detach() if isinstance(value, torch.Tensor) and value.grad_fn is not None else value


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return an input without its graph; one made in inference mode must be copied to be differentiated."""
    if not (tensor.is_inference() or torch.is_inference_mode_enabled()):
        return tensor.detach()
    with torch.inference_mode(False):
        return tensor.clone() if tensor.is_inference() else tensor.detach()
