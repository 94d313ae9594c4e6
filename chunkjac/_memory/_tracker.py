"""Live bytes: how much tensor memory exists that did not exist before."""

from __future__ import annotations

import weakref
from functools import cache
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from chunkjac._memory._foresight import NO_MEMORY, Given, bytes_to_be_made

# `torch.tensor` makes its memory unseen, and hands it on through this.
_LIFT_FRESH = torch.ops.aten.lift_fresh.default
_NOTHING_GIVEN = Given([], 1)

_TO_COPY = torch.ops.aten._to_copy.default
_META = torch.device("meta")

# On the CPU these work in scratch memory that no tensor shows (oneDNN; measured 1.20-1.32 times
# the tensors' bytes for convolutions).
_HIDDEN_SCRATCH = ("convolution", "mkldnn_rnn", "_thnn_fused", "lstm", "gru")


class OverBudget(MemoryError):  # noqa: N818 - not an error until nothing smaller is left to try
    """Say that the next operation would exceed the limit; nothing was allocated for it."""


class LiveBytes(TorchDispatchMode):
    """Count the bytes of all storages made on one device while this mode is on.

    A storage counts from the operation that makes it until its last reference dies, also
    inside ``vmap``, ``vjp``, ``jvp`` and the backward pass. What was there before, what NumPy
    holds and what kernels use within one operation do not count.

    Args:
        device: The only device that counts.
        limit_bytes: Raise :class:`OverBudget` before an operation that would exceed this.
        fake: The mode to dry-run in. Fake tensors count as what they stand for, and tensors
            that the function captured become fake once and count as held before.

    Attributes:
        live_bytes: Bytes alive now.
        peak_bytes: The most alive at any moment since the start or since :meth:`restart_peak`.
        highest_bytes: The most alive at any moment since the start.
        hidden_scratch: Whether an operation ran that uses memory no tensor shows.
    """

    def __init__(
        self, device: torch.device, *, limit_bytes: int | None = None, fake: FakeTensorMode | None = None
    ) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self.highest_bytes = 0
        self.hidden_scratch = False
        self._device = device
        self._limit_bytes = limit_bytes
        self._fake = fake
        # By identity: what notices the end of a storage, and its bytes; None for one that was held before.
        self._storages: dict[int, tuple[weakref.ref[Any], int | None]] = {}
        self._outside: list[torch.Tensor] = []

    def restart_peak(self) -> None:
        """Begin a new peak at what is alive now."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it made."""
        kwargs = kwargs or {}
        if self._fake is not None:
            args, kwargs = tree_map(self._faked, (args, kwargs))
            kwargs = _where_it_is(func, args, kwargs)
        given = Given.of(args, kwargs)
        if self._limit_bytes is not None:
            self._stay_below(self._limit_bytes, func, args, kwargs, given)
        made = func(*args, **kwargs)
        if func is not NO_MEMORY:
            self._count(made, _NOTHING_GIVEN if func is _LIFT_FRESH else given)
            if self._limit_bytes is not None and self.live_bytes > self._limit_bytes:
                raise OverBudget(f"{func} made more than could be foreseen: {self.live_bytes} bytes are alive")
        self.hidden_scratch = self.hidden_scratch or _has_hidden_scratch(func)
        return made

    def _stay_below(
        self, limit_bytes: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], given: Given
    ) -> None:
        """Refuse an operation whose result would not fit."""
        room_bytes = limit_bytes - self.live_bytes
        made_bytes = bytes_to_be_made(func, args, kwargs, given, self._device, room_bytes)
        if made_bytes > room_bytes:
            raise OverBudget(f"{func} would make {made_bytes} bytes where {room_bytes} are left")

    def _faked(self, value: Any) -> Any:
        """Replace a real tensor by its fake, which counts as held before."""
        assert self._fake is not None
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        fake = self._fake.from_tensor(value)
        if _key(fake) not in self._storages:
            self._outside.append(fake)  # one fake for each tensor, for as long as this mode lives
            self._register(fake, None)
        return fake

    def _count(self, made: Any, given: Given) -> None:
        """Add the new storages among the results."""
        for tensor in (made,) if isinstance(made, torch.Tensor) else Given.of((made,), {}).tensors:
            if not self._counts(tensor):
                continue
            key, n_bytes = _key(tensor), tensor.untyped_storage().nbytes()
            if key not in self._storages:
                is_view = any(_key(tensor) == key for tensor in given.tensors)
                self._register(tensor, None if is_view else n_bytes)
                continue
            reference, known_bytes = self._storages[key]
            if known_bytes is not None and known_bytes != n_bytes:  # resized in place
                self._storages[key] = (reference, n_bytes)
                self.live_bytes += n_bytes - known_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.highest_bytes = max(self.highest_bytes, self.peak_bytes)

    def _register(self, tensor: torch.Tensor, n_bytes: int | None) -> None:
        """Count a storage until its last reference dies; not one that was held before (``None``)."""
        key = _key(tensor)
        self._storages[key] = (weakref.ref(tensor.untyped_storage(), self._forgetter(key)), n_bytes)
        self.live_bytes += n_bytes or 0

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Tell whether the tensor takes memory on the device that counts.

        Forward AD runs some decompositions on meta tensors inside a real run, and a dry run
        within a real one makes fakes: neither has memory.
        """
        if isinstance(tensor, FakeTensor) != (self._fake is not None):
            return False
        return tensor.device == self._device and tensor.layout == torch.strided

    def _forgetter(self, key: int) -> Any:
        """Return what subtracts a storage once it is gone, without keeping this mode alive."""
        this = weakref.ref(self)

        def forget(_: object) -> None:
            mode = this()
            if mode is not None:
                mode.live_bytes -= mode._storages.pop(key)[1] or 0

        return forget


def _where_it_is(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keep a copy on its tensor's device where forward AD asks for meta.

    Adding a zero tensor to a fake one copies the fake "to the result's device", which torch
    works out as meta; the next operation then meets two devices and raises (LayerNorm and
    BatchNorm under jvp, torch 2.13). A real run copies to where the tensor is.
    """
    if func is _TO_COPY and kwargs.get("device") == _META and args[0].device != _META:
        return {**kwargs, "device": args[0].device}
    return kwargs


def _key(tensor: torch.Tensor) -> int:
    """Return the identity of the memory under a tensor."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout == torch.strided else id(tensor)


@cache
def _has_hidden_scratch(func: Any) -> bool:
    """Tell whether an operation works in memory that no tensor shows."""
    return any(word in func._schema.name for word in _HIDDEN_SCRATCH)
