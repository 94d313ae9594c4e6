"""Live bytes: how much tensor memory exists that did not exist before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

from chunkjac._memory.fakes import where_it_is
from chunkjac._memory.foresight import LIFT_FRESH, NO_MEMORY, bytes_to_be_made, traits_of
from chunkjac._memory.gauge import Gauge
from chunkjac._memory.scratch import scratch_bytes
from chunkjac._memory.storages import Storages, key_of
from chunkjac._memory.watcher import Watcher
from chunkjac._tensors import tensors_among

# What allocators give is a multiple of this (c10/cuda/CUDACachingAllocator.h, kMinBlockSize; XPU's alike).
_GRANULES = {"cuda": 512, "xpu": 512}


class OverBudget(MemoryError):  # noqa: N818 - not an error until nothing smaller is left to try
    """Say that the next operation would exceed the limit; nothing was allocated for it."""


class LiveBytes(Watcher):
    """Count the bytes of all storages made on one device while this mode is on.

    A storage counts from the operation that makes it until its last reference dies, also
    inside ``vmap``, ``vjp``, ``jvp`` and the backward pass. What was there before, what NumPy
    holds and what kernels use within one operation do not count; but on an accelerator they come
    from the allocator, whose peak is taken where it is higher.

    Args:
        device: The only device that counts.
        limit_bytes: Raise :class:`OverBudget` before an operation that would exceed this.
        fake: The mode to dry-run in. Fake tensors count as what they stand for, and tensors
            that the function captured become fake once and count as held before.
        gauge: Tells the allocator's peak, on an accelerator.
        stands_for: The device whose allocator is assumed; ``device`` itself, if not given.
        rests_below_bytes: With a peak so small, a few evaluations more need not be seen: where nobody set a
            limit or wants the figures.

    Attributes:
        peak_bytes: The most alive at any moment since the start or since :meth:`restart_peak`.
        highest_bytes: The most alive at any moment since the start.
        largest_bytes: The largest storage that was made.
        has_rested: Whether some evaluations were not seen.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        limit_bytes: int | None = None,
        fake: FakeTensorMode | None = None,
        gauge: Gauge | None = None,
        stands_for: torch.device | None = None,
        rests_below_bytes: int = 0,
    ) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.highest_bytes = 0
        self.largest_bytes = 0
        self._level_bytes = 0  # alive at the last restart
        self._worked_bytes = 0  # the peak since then, with what kernels work in beside their tensors
        self._device = device
        self._limit_bytes = limit_bytes
        self._fake = fake
        self._gauge = gauge
        self._gauge_bytes = 0
        self._has_scratch = (stands_for or device).type == "cpu"
        self._granule = _GRANULES.get((stands_for or device).type, 1)
        self._storages = Storages()
        self._outside: list[torch.Tensor] = []
        self._is_paused = False
        self._rests_below_bytes = rests_below_bytes
        self.has_rested = False

    @property
    def live_bytes(self) -> int:
        """Return the bytes that are alive."""
        return self._storages.live_bytes

    def may_rest(self) -> bool:
        """Tell whether what it has seen is so little that some more does not matter."""
        may_rest = self.highest_bytes < self._rests_below_bytes
        self.has_rested = self.has_rested or may_rest
        return may_rest

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let what is made meanwhile not count, and nothing be refused."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def restart_peak(self) -> None:
        """Begin a new peak at what is alive now."""
        self.peak_bytes = self._level_bytes = self._worked_bytes = self.live_bytes

    @property
    def margin(self) -> float:
        """Return how many times its tensors' bytes was really taken since :meth:`restart_peak`.

        Kernels work in memory that no tensor shows. It is not promised; chunks are chosen so that
        it fits, as far as it can be foreseen.
        """
        held_bytes = self.peak_bytes - self._level_bytes
        return max(1.0, (self._worked_bytes - self._level_bytes) / held_bytes) if held_bytes > 0 else 1.0

    @property
    def spare_bytes(self) -> float:
        """Return what may still be made."""
        return inf if self._limit_bytes is None else self._limit_bytes - self.live_bytes

    def assume(self, n_bytes: int, largest_bytes: int = 0) -> None:
        """Count bytes as alive that were made while this mode was off, from now on and for good.

        Args:
            n_bytes: All of them.
            largest_bytes: Those of the largest tensor.
        """
        self._storages.held_bytes += n_bytes
        self.largest_bytes = max(self.largest_bytes, largest_bytes)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.highest_bytes = max(self.highest_bytes, self.peak_bytes)

    def __enter__(self) -> LiveBytes:
        """Begin to count."""
        if self._gauge is not None:
            self._gauge_bytes = self._gauge.sample() - self.live_bytes  # what is not ours
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        """Stop counting."""
        super().__exit__(*failure)
        if self._gauge is not None:
            self.peak_bytes = max(self.peak_bytes, self._gauge.sample() - self._gauge_bytes)
            self.highest_bytes = max(self.highest_bytes, self.peak_bytes)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operation and count what it made."""
        traits = traits_of(func)
        if self._is_paused or (traits.is_view and self._fake is None):
            return func(*args, **kwargs)
        if self._fake is not None:
            args = tuple(map(self._all_faked, args))
            kwargs = {name: self._all_faked(value) for name, value in kwargs.items()}
            kwargs = where_it_is(func, args, kwargs)
        tensors = tensors_among((*args, *kwargs.values()) if kwargs else args)
        limit_bytes = self._limit_bytes
        if limit_bytes is not None:
            spare_bytes = limit_bytes - self.live_bytes
            made_bytes = bytes_to_be_made(func, args, kwargs, tensors, self._device, spare_bytes)
            if _rounded(made_bytes, self._granule) > spare_bytes:
                raise OverBudget(f"{func} would make {made_bytes} bytes where {spare_bytes} are left")
        made = func(*args, **kwargs)
        if func is not NO_MEMORY:
            self._count(made, [] if traits.is_new or func is LIFT_FRESH else tensors)
            if limit_bytes is not None and self.live_bytes > limit_bytes:
                raise OverBudget(f"{func} made more than could be foreseen: {self.live_bytes} bytes are alive")
        if self._has_scratch:
            held_bytes = self.live_bytes - self._level_bytes
            worked_bytes = self.live_bytes + scratch_bytes(func, args, made, held_bytes)
            self._worked_bytes = max(self._worked_bytes, worked_bytes)
        return made

    def _all_faked(self, value: Any) -> Any:
        """Replace all real tensors among values by their fakes."""
        return tree_map(self._faked, value) if isinstance(value, (list, tuple)) else self._faked(value)

    def _faked(self, value: Any) -> Any:
        """Replace a real tensor by its fake, which counts as held before."""
        assert self._fake is not None
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        fake = self._fake.from_tensor(value)
        storage = fake.untyped_storage()
        if self._storages.watch_of(storage) is None:
            self._outside.append(fake)  # one fake for each tensor, for as long as this mode lives
            self._storages.add(storage, None)
        return fake

    def _count(self, made: Any, given: list[torch.Tensor]) -> None:
        """Add the new storages among the results; one that an argument has too was held before."""
        storages = self._storages
        for tensor in (made,) if isinstance(made, torch.Tensor) else tensors_among((made,)):
            if not self._counts(tensor):
                continue
            storage = tensor.untyped_storage()
            n_bytes = _rounded(storage.nbytes(), self._granule)
            watch = storages.watch_of(storage)
            if watch is None:
                is_new = all(key_of(other) != storage._cdata for other in given)
                storages.add(storage, n_bytes if is_new else None)
                self.largest_bytes = max(self.largest_bytes, n_bytes if is_new else 0)
            elif watch.n_bytes is not None and watch.n_bytes != n_bytes:  # resized in place
                storages.held_bytes += n_bytes - watch.n_bytes
                watch.n_bytes = n_bytes
        live_bytes = storages.live_bytes
        if live_bytes > self.peak_bytes:
            self.peak_bytes = live_bytes
            self.highest_bytes = max(self.highest_bytes, live_bytes)

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Tell whether the tensor takes memory on the device that counts.

        Forward AD runs some decompositions on meta tensors inside a real run, and a dry run
        within a real one makes fakes: neither has memory.
        """
        if isinstance(tensor, FakeTensor) != (self._fake is not None):
            return False
        is_here = tensor.device == self._device or tensor.device.type == self._device.type == "cpu"
        return is_here and tensor.layout == torch.strided


def _rounded(n_bytes: int, granule: int) -> int:
    """Return what an allocator gives for so many bytes."""
    return -(-n_bytes // granule) * granule
