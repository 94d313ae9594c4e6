"""What runs once before the steps: it makes of values what the steps use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from chunkjac._programs.graph.graph import Node
from chunkjac._programs.graph.lives import peak_bytes
from chunkjac._programs.replay.code import straight_code
from chunkjac._tensors import Tensors


class Preparation:
    """Run operations that do not depend on the seeds.

    Args:
        nodes: The operations.
        values: The nodes of what it is given.
        constants: What else it uses.
        needs: The nodes whose values are wanted.

    Attributes:
        n_bytes: What the results take that are wanted.
        most_bytes: What all results take at most at once.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        values: Sequence[Node],
        constants: Mapping[Node, torch.Tensor],
        needs: Collection[Node],
    ) -> None:
        self._values, self._constants, self._needs = values, constants, tuple(needs)
        made = {*nodes}
        self._made = tuple(node for node in self._needs if node in made)
        self._straight = straight_code(nodes, self._made, {}, set())
        roots = {node.root: node.root.layout for node in self._made if node.root in made}
        self.n_bytes = sum(layout.n_bytes for layout in roots.values() if layout is not None)
        self.most_bytes = peak_bytes(nodes, self._made)

    def run(self, values: Tensors) -> dict[Node, Any]:
        """Return what the steps use, by its node."""
        known: dict[Node, Any] = {**self._constants, **dict(zip(self._values, values, strict=True))}
        known.update(zip(self._made, self._straight.bound(known)(0), strict=True))
        return {node: known[node] for node in self._needs}
