"""What every rung is: a way to apply the derivative of a problem to seeds."""

from __future__ import annotations

from typing import ClassVar, Protocol

from chunkjac._problem import Outputs
from chunkjac._tensors import Tensors


class Rung(Protocol):
    """Apply the derivative of a problem, at its inputs, to seeds.

    A rung is made by running its prologue.

    Attributes:
        name: The rung's name.
        prologue: What its prologue is, the same for rungs that share one.
        batched: Whether ``many`` computes the directions of a chunk together.
        outputs: What the function returns.
        flows: Whether any output depends on an input as far as the rung sees.
    """

    name: ClassVar[str]
    prologue: ClassVar[str]
    batched: ClassVar[bool]
    outputs: Outputs
    flows: bool

    @property
    def is_sure(self) -> bool:
        """Tell whether ``many`` is known to give what ``one`` does."""
        ...

    def many(self, seeds: Tensors) -> Tensors:
        """Apply the derivative to ``(k, *leaf.shape)`` of seeds."""
        ...

    def one(self, seed: Tensors) -> Tensors:
        """Apply the derivative to a single seed, without batching anything."""
        ...

    def recordable(self, seed: Tensors) -> Tensors:
        """Do what ``one`` does, by operations that have batching rules as far as there are any."""
        ...

    def close(self) -> None:
        """Let go of what the prologue keeps; nothing is asked for after that."""
        ...
