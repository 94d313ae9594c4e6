"""A storage counts until its last reference dies."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import torch


class Watch(weakref.ref):
    """Notice the end of a storage.

    Attributes:
        key: Its identity.
        n_bytes: Its bytes when it was last looked at.
        counted_bytes: Those that were not there before.
    """

    __slots__ = ("counted_bytes", "key", "n_bytes")
    key: int
    n_bytes: int
    counted_bytes: int


class Storages:
    """Hold which storages there are, each until it is gone, and the bytes of those that were not there before.

    Nothing of Python runs where one dies: an interrupt (Ctrl-C) that came in there would be printed and lost. It is
    put into a list, and counted off when somebody asks.

    Args:
        granule: What an allocator gives is a multiple of this.

    Attributes:
        peak_bytes: The most alive at any moment since the start or since :meth:`restart_peak`.
        highest_bytes: The most alive at any moment since the start.
        largest_bytes: The largest storage that was made.
    """

    def __init__(self, granule: int) -> None:
        self.peak_bytes = self.highest_bytes = self.largest_bytes = 0
        self._held_bytes = 0  # what was added, less what is counted off
        self._granule = granule
        self._watches: dict[int, Watch] = {}  # by identity
        self._gone: list[Watch] = []
        self._note_end = self._gone.append

    @property
    def live_bytes(self) -> int:
        """Return the bytes that are alive."""
        while self._gone:
            watch = self._gone.pop()
            del self._watches[watch.key]
            self._held_bytes -= watch.counted_bytes
        return self._held_bytes

    def rounded(self, n_bytes: int) -> int:
        """Return what an allocator gives for so many bytes."""
        return -(-n_bytes // self._granule) * self._granule

    def restart_peak(self) -> None:
        """Begin a new peak at what is alive now."""
        self.peak_bytes = self.live_bytes

    def note(self, beside_bytes: int = 0) -> None:
        """Take note of what is alive at a moment, and of what is beside it."""
        n_bytes = self.live_bytes + beside_bytes
        if n_bytes > self.peak_bytes:
            self.peak_bytes = n_bytes
            self.highest_bytes = max(self.highest_bytes, n_bytes)

    def assume(self, n_bytes: int, largest_bytes: int = 0) -> None:
        """Count bytes as alive that nobody has seen, from now on and for good.

        Args:
            n_bytes: All of them.
            largest_bytes: Those of the largest tensor.
        """
        self._held_bytes += n_bytes
        self.largest_bytes = max(self.largest_bytes, largest_bytes)
        self.note()

    def knows(self, storage: torch.UntypedStorage) -> bool:
        """Tell whether a storage was seen; if it was resized since, count that."""
        if self._gone:
            _ = self.live_bytes  # another may have been there
        watch = self._watches.get(storage._cdata)
        if watch is None:
            return False
        n_bytes = self.rounded(storage.nbytes())
        if watch.n_bytes != n_bytes:
            self._held_bytes += n_bytes - watch.n_bytes
            watch.counted_bytes += n_bytes - watch.n_bytes
            watch.n_bytes = n_bytes
        return True

    def enter(self, storage: torch.UntypedStorage, *, is_new: bool) -> None:
        """Watch a storage until its last reference dies, and count it until then if it was not there before."""
        watch = Watch(storage, self._note_end)
        watch.key, watch.n_bytes = storage._cdata, self.rounded(storage.nbytes())
        watch.counted_bytes = watch.n_bytes if is_new else 0
        self._watches[watch.key] = watch
        self._held_bytes += watch.counted_bytes
        self.largest_bytes = max(self.largest_bytes, watch.counted_bytes)

    def take_over(self, other: Storages) -> None:
        """Count from now on what is left of what another has counted."""
        for watch in [*other._watches.values()]:
            storage = watch()
            if storage is not None and watch.counted_bytes and not self.knows(storage):
                self.enter(storage, is_new=True)


def key_of(tensor: torch.Tensor) -> int:
    """Return the identity of the memory under a tensor."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)


def parts_of(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the dense tensors that a tensor is made of: itself, or the places and values of a sparse one."""
    if tensor.layout == torch.strided:
        yield tensor
    elif tensor.layout == torch.sparse_coo:
        yield from (tensor._indices(), tensor._values())
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        yield from (tensor.crow_indices(), tensor.col_indices(), tensor.values())
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        yield from (tensor.ccol_indices(), tensor.row_indices(), tensor.values())


def has_a_tensor(storage: torch.UntypedStorage) -> bool:
    """Tell whether a tensor has this storage, as far as Python knows: looking takes some milliseconds."""
    # By type: `isinstance` would ask any object for its `__class__`, which can be code of somebody else.
    tensors = (part for part in gc.get_objects() if issubclass(type(part), torch.Tensor))
    return any(_is_plain(tensor) and key_of(tensor) == storage._cdata for tensor in tensors)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has memory of its own: what is left of a transform's wrappers has none."""
    return tensor.layout == torch.strided and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
