"""Cotangents that stand for several: gradients under ``vmap``, and those that are batched.

A Jacobian's graph is computed anew when it is gone back through, which no batching rule knows. So what comes in a batch
is taken out of it and sent back together: each block is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from chunkjac._sinks import Cotangent, Grads

PullBack = Callable[[Sequence[Cotangent]], list[Grads]]


def sent_back(pull_back: PullBack, cotangents: Sequence[Cotangent]) -> list[Grads]:
    """Send cotangents back, those of a batch one by one outside of it.

    Args:
        pull_back: Does it for cotangents that are none of a batch.
        cotangents: In the order of outputs and inputs each.

    Returns:
        For each the gradients of the sources; of a batch, where it is one.
    """
    parts = [part for each in cotangents for part in each if part is not None]
    if any(map(torch._C._functorch.is_batchedtensor, parts)):
        return [_Mapped.apply(pull_back, *each) for each in cotangents]
    if any(torch._C._dispatch_keys(part).has("Batched") for part in parts):
        return [_sent_back_of_old(pull_back, each) for each in cotangents]
    return pull_back(cotangents)


class _Mapped(torch.autograd.Function):
    """Send the cotangents of a ``vmap`` back, one level further out."""

    @staticmethod
    def forward(pull_back: PullBack, *cotangent: torch.Tensor | None) -> Grads:
        """Send one back; under ``vmap`` torch asks for the method below instead."""
        return pull_back([cotangent])[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: gradients have the graphs that they are computed with."""

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], pull_back: PullBack, *cotangent: torch.Tensor | None
    ) -> tuple[Grads, tuple[int | None, ...]]:
        """Send all of them back."""
        moved = [
            part if part is None else part.unsqueeze(0) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(cotangent, in_dims[1:])
        ]
        grads = _stacked(sent_back(pull_back, _each(moved, info.batch_size)))
        return grads, tuple(None if grad is None else 0 for grad in grads)


def _sent_back_of_old(pull_back: PullBack, cotangent: Cotangent) -> Grads:
    """Do the same where the batch is one of the ``vmap`` before torch.func's, as with ``is_grads_batched``."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    moved = [part if part is None else torch._remove_batch_dim(part, level, 1, 0) for part in cotangent]
    torch._C._vmapmode_decrement_nesting()
    try:
        each = _each(moved, max(len(part) for part in moved if part is not None))
        grads = _stacked(sent_back(pull_back, each))
    finally:
        torch._C._vmapmode_increment_nesting()
    return tuple(grad if grad is None else torch._add_batch_dim(grad, 0, level) for grad in grads)


def _each(parts: Cotangent, size: int) -> list[Cotangent]:
    """Return the cotangents of a batch; a part of one stands for all."""
    return [[part if part is None else part[i if len(part) > 1 else 0] for part in parts] for i in range(size)]


def _stacked(found: Iterable[Grads]) -> Grads:
    """Return the gradients of a batch."""
    return tuple(None if grads[0] is None else torch.stack(grads) for grads in zip(*found))
