"""What blocks with a graph are for: cotangents are sent back through each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, product

import torch

from chunkjac._modes import Mode, block_leaves, random_tangent
from chunkjac._sinks.sink import Whole, swapped
from chunkjac._tensors import Tensors

Cotangent = Sequence[torch.Tensor | None]
Grads = tuple[torch.Tensor | None, ...]


class PulledBack(Whole):
    """Add up what the blocks' parts of cotangents give for some tensors.

    Args:
        mode: What makes the blocks, with their graphs.
        cotangents: One or several; each has for each output and each input ``(*output.shape, *input.shape)``, or
            ``None`` for zeros.
        sources: Where they are sent to.
        keeps_graph: Whether the sums can be differentiated again.

    Attributes:
        grads: For each cotangent the sum for each source; ``None`` for one that no block depends on.
        products: The Jacobian times a fixed vector, like the outputs.
    """

    def __init__(
        self,
        mode: Mode,
        cotangents: Sequence[Cotangent],
        sources: Tensors,
        *,
        keeps_graph: bool = False,
    ) -> None:
        self.grads: list[Grads] = [(None,) * len(sources) for _ in cotangents]
        self.n_directions = mode.directions.n
        self._directions = mode.directions
        self._seeds, self._blocks = mode.directions.leaves, block_leaves(mode)
        self._sources = sources
        self._keeps_graph = keeps_graph
        self._by_rows = mode.by_rows
        self._vector = random_tangent(mode.problem.leaves)
        self.products = tuple(leaf.zeros() for leaf in mode.outputs.leaves)
        self._rows = [self._rows_of(mode, cotangent) for cotangent in cotangents]

    def _rows_of(self, mode: Mode, cotangent: Cotangent) -> Cotangent:
        """Return a cotangent for each seed and each block, with the directions outermost."""
        n_inputs, found = len(mode.problem.leaves), list[torch.Tensor | None]()
        for seed, block in product(range(len(self._seeds)), range(len(self._blocks))):
            output, x = (seed, block) if mode.by_rows else (block, seed)
            part = cotangent[output * n_inputs + x]
            if part is not None and not mode.by_rows:
                part = swapped(part, len(mode.outputs.leaves[output].shape))
            shape = (self._seeds[seed].numel, *self._blocks[block].shape)
            found.append(None if part is None else part.reshape(shape))
        return found

    def begin_again(self) -> None:
        """Let the sums be zeros again."""
        self.grads = [(None,) * len(grads) for grads in self.grads]
        for target in self.products:
            target.zero_()

    def write(self, chunk: slice, block: Tensors) -> None:
        """Send the chunk's part of each cotangent back through its block."""
        # All that takes memory first: a chunk that runs out of it is tried again, and must not be half added.
        with torch.no_grad():
            products = self._products(chunk, block)
        found = [self._grads(chunk, block, rows) for rows in self._rows]
        if self._keeps_graph:
            self.grads = [tuple(map(_sum, totals, more)) for totals, more in zip(self.grads, found)]
        else:
            self.grads = [tuple(map(_begun, totals, more)) for totals, more in zip(self.grads, found)]
            for total, more in chain.from_iterable(map(zip, self.grads, found)):
                if total is not None and more is not None:
                    total.add_(more)
        for target, values in products:
            target.add_(values)

    def _grads(self, chunk: slice, block: Tensors, cotangent: Cotangent) -> Grads:
        """Return what the chunk's part of a cotangent gives."""
        ends, given = [], []
        for part in self._directions.parts(chunk):
            for number, values in enumerate(block):
                rows = cotangent[part.leaf * len(self._blocks) + number]
                if rows is not None and values.requires_grad:
                    with torch.enable_grad():  # the backward pass around this has it off
                        ends.append(values[part.rows])
                    given.append(rows[part.elements])
        if not ends:
            return (None,) * len(self._sources)
        return torch.autograd.grad(
            ends, self._sources, given, retain_graph=True, create_graph=self._keeps_graph, allow_unused=True
        )

    def _products(self, chunk: slice, block: Tensors) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the block's part in the product, and where it is to be added."""
        products = []
        for part in self._directions.parts(chunk):
            for number, values in enumerate(block):
                rows = values.detach()[part.rows]
                vector = self._vector[number if self._by_rows else part.leaf].to(rows)
                if self._by_rows:
                    target = self.products[part.leaf].view(-1)[part.elements]
                    product = torch.tensordot(rows, vector, vector.dim())
                else:
                    target = self.products[number]
                    product = torch.tensordot(vector.reshape(-1)[part.elements], rows, 1)
                products.append((target, product.to(target)))
        return products


def _begun(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    """Return a sum, zeros if there was none and something is to be added."""
    return more.clone().zero_() if total is None and more is not None else total


def _sum(total: torch.Tensor | None, more: torch.Tensor | None) -> torch.Tensor | None:
    """Add so that the sum can be differentiated."""
    if total is None or more is None:
        return more if total is None else total
    return total + more
