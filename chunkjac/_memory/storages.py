"""A storage counts until its last reference dies."""

from __future__ import annotations

import weakref
from typing import Any

import torch


class Watch(weakref.ref):
    """Notice the end of a storage.

    Attributes:
        key: Its identity.
        n_bytes: Its bytes; ``None`` for one that was held before.
    """

    __slots__ = ("key", "n_bytes")
    key: int
    n_bytes: int | None


def forgetter(mode: Any) -> Any:
    """Return what subtracts a storage once it is gone, without keeping the mode alive."""
    this = weakref.ref(mode)

    def forget(watch: Any) -> None:
        mode = this()
        if mode is not None:
            mode.live_bytes -= mode._storages.pop(watch.key).n_bytes or 0

    return forget


def key_of(tensor: torch.Tensor) -> int:
    """Return the identity of the memory under a tensor."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)
