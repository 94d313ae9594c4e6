"""The random generators' states: kept, and put back.

Dispatch modes do not see it: a state is no tensor of the job's, and no fake.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from chunkjac._problem.transforms import outside_transforms

RANDOMNESS = ("error", "same", "different")


_CPU = torch.device("cpu")

# Whether numbers are being drawn that are no randomness of the function's.
_fixed: ContextVar[bool] = ContextVar("chunkjac_fixed_numbers", default=False)


class FixedNumbers:
    """Draw numbers that are always the same, on the CPU; the user's generators are not touched.

    Args:
        seed: Which ones.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator("cpu").manual_seed(seed)

    def uniform(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the next ones between 0 and 1; on fake tensors, any: torch would keep each generator for ever."""
        is_fake = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
        generator = None if is_fake else self._generator
        token = _fixed.set(True)
        try:
            return torch.rand(shape, generator=generator, dtype=dtype, device="cpu")
        finally:
            _fixed.reset(token)

    def signed(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return numbers between 0.5 and 1.5, or their opposites: none that hides what it weighs."""
        parts = self.uniform((2, *shape), dtype)
        sizes = 0.5 + parts[0]
        return torch.where(parts[1] < 0.5, -sizes, sizes)


def are_fixed() -> bool:
    """Tell whether what is drawn right now is always the same."""
    return _fixed.get()


@dataclass(frozen=True, slots=True)
class RandomState:
    """Hold the states of torch's generators: the CPU's, and those of some accelerators."""

    states: tuple[tuple[torch.device, torch.Tensor], ...]

    @classmethod
    def now(cls, devices: Iterable[torch.device]) -> RandomState:
        """Read the states of the CPU's generator and of the devices'."""
        accelerators = {device for device in devices if device.type not in ("cpu", "meta")}
        with undisturbed():
            return cls(tuple((device, _read(device)) for device in (_CPU, *sorted(accelerators, key=str))))

    def restore(self) -> None:
        """Put the states back."""
        for device, state in self.states:
            set_state(device, state)

    def has_moved(self) -> bool:
        """Tell whether random numbers were drawn since."""
        with undisturbed():
            return any(not torch.equal(state, _read(device)) for device, state in self.states)


def state_of(device: torch.device) -> torch.Tensor:
    """Return the state of a device's generator."""
    with undisturbed():
        return _read(device)


def _read(device: torch.device) -> torch.Tensor:
    """Return the same where nothing is in the way."""
    state: torch.Tensor = _generators(device).get_rng_state(*_place(device))
    return state


def set_state(device: torch.device, state: torch.Tensor) -> None:
    """Set the state of a device's generator."""
    with undisturbed():
        _generators(device).set_rng_state(state, *_place(device))


def stamp_of(state: torch.Tensor) -> int:
    """Return what is the same for equal states, and no others."""
    with undisturbed():
        return hash(bytes(state.numpy()))


def undisturbed() -> AbstractContextManager[Any]:
    """Set modes and transforms aside."""
    is_plain = not torch._C._len_torch_dispatch_stack() and torch._C._functorch.peek_interpreter_stack() is None
    return torch._C.DisableTorchFunction() if is_plain else _all_aside()


@contextmanager
def _all_aside() -> Iterator[None]:
    """Set dispatch modes and transforms aside as well: that takes 20 microseconds."""
    with torch._C.DisableTorchFunction(), outside_transforms(), _disable_current_modes():
        yield


def _generators(device: torch.device) -> Any:
    """Return the module that has a device's generators."""
    return torch if device.type == "cpu" else getattr(torch, device.type)


def _place(device: torch.device) -> tuple[torch.device, ...]:
    """Return what tells one of several devices; the CPU and MPS have one."""
    return () if device.type in ("cpu", "mps") else (device,)
