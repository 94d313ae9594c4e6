"""Seeds sent through a graph of autograd's."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from chunkjac._tensors import Tensors


def pulled_back(
    ends: Sequence[torch.Tensor],
    sources: Sequence[torch.Tensor],
    seeds: Tensors,
    *,
    batched: bool,
    create_graph: bool,
) -> Tensors:
    """Send seeds from the ends of a graph back to its sources; those that no end depends on get zeros.

    Args:
        ends: Where the graph ends.
        sources: Where it begins.
        seeds: Like the ends; if ``batched``, ``(k, *end.shape)``.
        batched: Whether there are several seeds for each end.
        create_graph: Whether the result can be differentiated.
    """
    reached = [(end, seed) for end, seed in zip(ends, seeds) if end.requires_grad]
    found: tuple[torch.Tensor | None, ...] = (None,) * len(sources)
    if reached:
        reached_ends, given = zip(*reached)
        found = torch.autograd.grad(
            reached_ends,
            sources,
            given,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            is_grads_batched=batched,
        )
    shape = (len(seeds[0]),) if batched else ()
    return tuple(x.new_zeros((*shape, *x.shape)) if rows is None else rows for x, rows in zip(sources, found))
