"""A storage counts until its last reference dies."""

from __future__ import annotations

import weakref

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


class Storages:
    """Hold the storages that count, each until it is gone.

    Nothing of Python runs where one dies: an interrupt (Ctrl-C) that came in there would be printed and lost. It is
    put into a list, and counted off when somebody asks.

    Attributes:
        held_bytes: What was added, less what is gone; ask for :attr:`live_bytes`, which counts off first.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._watches: dict[int, Watch] = {}  # by identity
        self._gone: list[Watch] = []
        self._note = self._gone.append

    @property
    def live_bytes(self) -> int:
        """Return the bytes that are alive."""
        self._count_off()
        return self.held_bytes

    def watch_of(self, storage: torch.UntypedStorage) -> Watch | None:
        """Return what watches a storage, if anything does."""
        self._count_off()  # another may have been there
        return self._watches.get(storage._cdata)

    def add(self, storage: torch.UntypedStorage, n_bytes: int | None) -> None:
        """Count a storage until its last reference dies; not one that was held before (``None``)."""
        watch = Watch(storage, self._note)
        watch.key, watch.n_bytes = storage._cdata, n_bytes
        self._watches[watch.key] = watch
        self.held_bytes += n_bytes or 0

    def _count_off(self) -> None:
        """Forget what is gone."""
        while self._gone:
            watch = self._gone.pop()
            del self._watches[watch.key]
            self.held_bytes -= watch.n_bytes or 0


def key_of(tensor: torch.Tensor) -> int:
    """Return the identity of the memory under a tensor."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)
