"""What sinks have in common: most take all directions, hold no buffers, and put values into places."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils._pytree import tree_unflatten

from chunkjac._modes import Mode
from chunkjac._problem import Block
from chunkjac._tensors import Tensors


class Whole:
    """Be a sink that takes all directions, and holds nothing between blocks."""

    def missing(self, total: int) -> list[slice]:
        """Return the directions that are to be computed: all of them."""
        return [slice(0, total)]

    def release(self) -> None:
        """Give back the memory of buffers: there are none."""

    def close(self) -> None:
        """Let go of what is held between blocks."""
        self.release()


def put(place: torch.Tensor, values: torch.Tensor, *, non_blocking: bool = False) -> None:
    """Copy values into their place, unless they were made there."""
    if place.data_ptr() != values.data_ptr():
        place.copy_(values, non_blocking=non_blocking)


def block_for_users(mode: Mode, chunk: slice, block: Tensors) -> Block:
    """Return a block as callables and loops are given it."""
    spec = mode.problem.spec if mode.by_rows else mode.outputs.spec
    return Block("output" if mode.by_rows else "input", chunk, tree_unflatten(list(block), spec))


def arrival(device: torch.device) -> Callable[[], object]:
    """Return what waits until all copies from a device that were begun so far are done."""
    if device.type == "cpu":
        return _nothing
    event = getattr(torch, device.type).Event()
    event.record()
    wait: Callable[[], object] = event.synchronize
    return wait


def _nothing() -> None:
    """Do nothing."""


def swapped(tensor: torch.Tensor, n_first: int) -> torch.Tensor:
    """Return a view with the first ``n_first`` dimensions moved behind the others."""
    dims = tuple(range(tensor.dim()))
    return tensor.permute(dims[n_first:] + dims[:n_first])
