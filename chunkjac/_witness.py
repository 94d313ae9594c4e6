"""What an evaluation of the function does to tensors that were there before it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# `native_batch_norm` and its kin write to these, and their schemas do not say so (torch 2.13).
_WRITTEN_UNSAID = ("running_mean", "running_var")


class Witness(TorchDispatchMode):
    """Keep a copy of each tensor that is written to for the first time, and note who takes part.

    Copies are made only of what is written to, so a function that writes to nothing costs
    nothing but the looking (1-2 microseconds an operation); it is needed for one evaluation.

    Attributes:
        captured: Tensors from outside that require grad and took part.

    Memory:
        As much as the tensors from outside that the function writes to (the statistics of
        BatchNorm in train mode, say).
    """

    def __init__(self) -> None:
        super().__init__()
        self.captured: list[torch.Tensor] = []
        self._copies: dict[Any, tuple[torch.Tensor, torch.Tensor]] = {}
        self._made_inside: set[int] = set()  # storages
        self._views: list[torch.Tensor] = []  # of what is outside, held so that their ids are theirs

    def __exit__(self, *failure: Any) -> None:
        """Stop looking."""
        super().__exit__(*failure)
        self._views.clear()

    def restore(self) -> None:
        """Give tensors that were written to the values back that they had."""
        with torch.no_grad(), torch.inference_mode(False):
            for tensor, copy in reversed(self._copies.values()):
                tensor.copy_(copy)
        self._copies.clear()

    def has_copy_of(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor will change when values are given back."""
        return any(_memory(tensor) == _memory(written) for written, _ in self._copies.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at what goes in and what comes out."""
        kwargs = kwargs or {}
        given = [tensor for tensor in _tensors((*args, *kwargs.values())) if self._is_outside(tensor)]
        for tensor in given:
            if tensor.requires_grad and not any(tensor is other for other in (*self._views, *self.captured)):
                self.captured.append(tensor)
        if given:
            for tensor in _tensors(tuple(_argument(place, args, kwargs) for place in _written(func))):
                if self._is_outside(tensor):
                    self._keep(tensor)
        outside = {_memory(tensor) for tensor in given}
        made = func(*args, **kwargs)
        for tensor in _tensors((made,)):
            if _memory(tensor) in outside:
                self._views.append(tensor)
            else:
                self._made_inside.add(_memory(tensor))
        return made

    def _is_outside(self, tensor: torch.Tensor) -> bool:
        """Tell whether a tensor's memory was there before."""
        return _memory(tensor) not in self._made_inside

    def _keep(self, tensor: torch.Tensor) -> None:
        """Copy a tensor before its first change."""
        key = (_memory(tensor), tensor.storage_offset(), tensor.shape, tensor.stride())
        if key not in self._copies:
            with torch.no_grad():
                alias = tensor.detach()
                self._copies[key] = (alias, alias.clone())


@functools.cache
def _written(func: Any) -> tuple[int | str, ...]:
    """Return which arguments an operation writes to: positions, or names of those by keyword only."""
    return tuple(
        argument.name if argument.kwarg_only else position
        for position, argument in enumerate(func._schema.arguments)
        if argument.name in _WRITTEN_UNSAID or (argument.alias_info is not None and argument.alias_info.is_write)
    )


def _argument(place: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return an argument by position or name; ``None`` if it was left out."""
    if isinstance(place, str):
        return kwargs.get(place)
    return args[place] if place < len(args) else None


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    """Yield dense tensors among values and in lists of them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided:
                yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(tuple(value))


def _memory(tensor: torch.Tensor) -> int:
    """Return the identity of the memory under a tensor."""
    return int(tensor.untyped_storage()._cdata)
