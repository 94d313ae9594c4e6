"""Live bytes: how much tensor memory exists that did not exist before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map

from chunkjac._memory.fakes import check_types, where_it_is, with_workspace
from chunkjac._memory.foresight import LIFT_FRESH, NO_MEMORY, bytes_to_be_made, traits_of
from chunkjac._memory.gauge import Gauge
from chunkjac._memory.out_of_memory import refusal, refusal_behind
from chunkjac._memory.scratch import operand_bytes, scratch_bytes
from chunkjac._memory.storages import Storages, has_a_tensor, key_of, parts_of
from chunkjac._memory.watcher import Watcher
from chunkjac._tensors import tensors_among

# What allocators give is a multiple of this (c10/cuda/CUDACachingAllocator.h, kMinBlockSize; XPU's alike).
_GRANULES = {"cuda": 512, "xpu": 512}

# What no operation has made comes to a tensor by these: what was copied deeply, loaded, or made as a storage.
_TAKES_STORAGE = {torch.ops.aten.set_.source_Storage, torch.ops.aten.set_.source_Storage_storage_offset}

# Whether a smaller storage was there before is not looked up: it counts as new.
_WORTH_LOOKING_UP_BYTES = 2**20


class LiveBytes(Storages, Watcher):
    """Count the bytes of all storages made on one device while this mode is on.

    A storage counts from the operation that makes it until its last reference dies, also
    inside ``vmap``, ``vjp``, ``jvp`` and the backward pass; one that no operation makes, from its first tensor. What
    was there before, what NumPy holds and what kernels use within one operation do not count, but for matrices that a
    product copies, where there is a limit; and on an accelerator they come from the allocator, whose peak is taken
    where it is higher.

    Args:
        device: The only device that counts.
        limit_bytes: Raise :class:`OverBudget` before an operation that would exceed this; not in a dry run.
        is_guess: Whether nobody has set that limit: then what cannot be foreseen runs.
        fake: The mode to dry-run in. Fake tensors count as what they stand for, and tensors
            that the function captured become fake once and count as held before.
        gauge: Tells the allocator's peak, on an accelerator.
        stands_for: The device whose allocator is assumed; ``device`` itself, if not given.
        rests_below_bytes: With a peak so small, a few evaluations more need not be seen: where nobody set a
            limit or wants the figures.

    Attributes:
        n_operations: How many operations it has seen.
        has_rested: Whether some evaluations were not seen.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        limit_bytes: int | None = None,
        is_guess: bool = False,
        fake: FakeTensorMode | None = None,
        gauge: Gauge | None = None,
        stands_for: torch.device | None = None,
        rests_below_bytes: int = 0,
    ) -> None:
        Storages.__init__(self, _GRANULES.get((stands_for or device).type, 1))
        Watcher.__init__(self)
        self.n_operations = 0
        self.has_rested = False
        self._level_bytes = 0  # alive at the last restart
        self._unseen_bytes = 0  # the most that came at once with nobody told before: room is left for it to come again
        self._worked_bytes = 0  # the peak since then, with what kernels work in beside their tensors
        self._device = device
        self.limit_bytes = limit_bytes
        self.is_strict = limit_bytes is not None and not is_guess
        self._fake = fake
        self._gauge = gauge
        self._gauge_bytes = 0
        self._has_scratch = (stands_for or device).type == "cpu"
        self._outside: list[torch.Tensor] = []
        self._is_paused = False
        self._rests_below_bytes = rests_below_bytes

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
        super().restart_peak()
        self._level_bytes = self._worked_bytes = self.live_bytes

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
        return inf if self.limit_bytes is None else self.limit_bytes - self.live_bytes

    def __enter__(self) -> LiveBytes:
        """Begin to count."""
        if self._gauge is not None:
            self._gauge_bytes = self._gauge.sample() - self.live_bytes  # what is not ours
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        """Stop counting; what comes of a refusal leaves as that."""
        super().__exit__(*failure)
        if self._gauge is not None:
            self.note(self._gauge.sample() - self._gauge_bytes - self.live_bytes)
        behind = refusal_behind(failure[1]) if failure[1] is not None else None
        if behind is not None and behind is not failure[1]:
            raise behind from None

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the operation and count what it made."""
        self.n_operations += 1
        traits = traits_of(func)
        if self._is_paused or (traits.is_view and self._fake is None):
            return func(*args, **kwargs)
        if self._fake is not None and func is not LIFT_FRESH:  # what that is given was not there before
            args = tuple(map(self._all_faked, args))
            kwargs = {name: self._all_faked(value) for name, value in kwargs.items()}
            kwargs = where_it_is(func, args, kwargs)
        tensors = tensors_among((*args, *kwargs.values()) if kwargs else args)
        if self._fake is not None:
            check_types(func, tensors)
        if traits.resizes:
            self._count(tensors, tensors)
        if func in _TAKES_STORAGE:
            self._take(args[1])
        copied_bytes = operand_bytes(func, tensors) if self._has_scratch and self.is_strict else 0
        if self.limit_bytes is not None and self._fake is None:
            spare_bytes = self.limit_bytes - self.live_bytes - self._unseen_bytes
            room_bytes = spare_bytes - copied_bytes
            made_bytes = bytes_to_be_made(func, args, kwargs, tensors, self._device, room_bytes, self.is_strict)
            if made_bytes == inf:
                raise refusal(f"{func} may make any number of bytes: it has no fake implementation (register_fake)")
            if self.rounded(int(made_bytes)) > room_bytes:
                raise refusal(f"{func} would make {made_bytes + copied_bytes} bytes where {spare_bytes} are left")
        made = func(*args, **kwargs)
        if self._fake is not None:
            made = with_workspace(func, args, made)
        if func is not NO_MEMORY:
            self._count(made, [] if traits.is_new or func is LIFT_FRESH else tensors)
            if func is LIFT_FRESH and args[0].untyped_storage().resizable():  # NumPy's are not
                self._unseen_bytes = max(self._unseen_bytes, self.rounded(made.untyped_storage().nbytes()))
            self.note(copied_bytes + (self._unseen_bytes if self._fake is not None else 0))
            self._check(func)
        if self._has_scratch:
            held_bytes = self.live_bytes - self._level_bytes
            worked_bytes = self.live_bytes + scratch_bytes(func, args, made, held_bytes)
            self._worked_bytes = max(self._worked_bytes, worked_bytes)
        return made

    def _check(self, func: Any) -> None:
        """Refuse what is there and was not foreseen; and what leaves no room for that to come again."""
        if self.limit_bytes is None or self._fake is not None:
            return
        if self.live_bytes + (self._unseen_bytes if func is LIFT_FRESH else 0) > self.limit_bytes:
            raise refusal(f"{func} made more than could be foreseen: {self.live_bytes} bytes are alive")

    def _all_faked(self, value: Any) -> Any:
        """Replace all real tensors among values by their fakes."""
        return tree_map(self._faked, value) if isinstance(value, (list, tuple)) else self._faked(value)

    def _faked(self, value: Any) -> Any:
        """Replace a real tensor by its fake, which counts as held before."""
        assert self._fake is not None
        if not isinstance(value, torch.Tensor) or isinstance(value, FakeTensor):
            return value
        fake = self._fake.from_tensor(value)
        if not self.knows(fake.untyped_storage()):
            self._outside.append(fake)  # one fake for each tensor, for as long as this mode lives
            self.enter(fake.untyped_storage(), is_new=False)
        return fake

    def _count(self, made: Any, given: list[torch.Tensor]) -> None:
        """Add the new storages among the results; one that an argument has too was held before."""
        for tensor in (made,) if isinstance(made, torch.Tensor) else tensors_among((made,)):
            for part in parts_of(tensor) if self._counts(tensor) else ():
                storage = part.untyped_storage()
                if not self.knows(storage):
                    held = (key_of(other) for whole in given for other in parts_of(whole))
                    self.enter(storage, is_new=all(key != storage._cdata for key in held))
        self.note()

    def _take(self, storage: torch.UntypedStorage) -> None:
        """Count a storage that comes to a tensor, unless another tensor has had it before."""
        if self._fake is None and _is_same(storage.device, self._device) and not self.knows(storage):
            was_there = storage.nbytes() >= _WORTH_LOOKING_UP_BYTES and has_a_tensor(storage)
            self.enter(storage, is_new=not was_there)
        self.note()
        self._check("what no operation")

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Tell whether the tensor takes memory on the device that counts.

        Forward AD runs some decompositions on meta tensors inside a real run, and a dry run
        within a real one makes fakes: neither has memory.
        """
        is_fake = isinstance(tensor, FakeTensor)
        if is_fake != (self._fake is not None) or (is_fake and tensor.layout != torch.strided):
            return False
        return _is_same(tensor.device, self._device)


def _is_same(device: torch.device, other: torch.device) -> bool:
    """Tell whether two devices have one memory."""
    return device == other or device.type == other.type == "cpu"
