"""What an evaluation of the function does to tensors that were there before it."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable, Iterator, Set
from typing import Any

import torch
from torch.utils._pytree import tree_map

from chunkjac._memory import Watcher
from chunkjac._problem.effects.claims import Claims
from chunkjac._problem.effects.data import DataWatcher
from chunkjac._problem.effects.randomness import are_fixed
from chunkjac._tensors import memory_of, tensors_among

# `native_batch_norm` and its kin write to these, and their schemas do not say so (torch 2.13).
_WRITTEN_UNSAID = ("running_mean", "running_var")

# So many elements are exchanged at once: few, since they are held a third time.
_PIECE_SIZE = 2**14


class WriteWatcher(Watcher):
    """Keep a copy of each tensor that is written to for the first time, and note who takes part.

    Copies are made only of what is written to, so a function that writes to nothing costs
    nothing but the looking; it is needed for one evaluation.

    Args:
        claims: Takes the memory that is written to, so that no other thread writes to it meanwhile.

    Attributes:
        captured: Tensors from outside that require grad and took part.
        moved: Tensors whose ``data`` was set, and what that was, by their identity.
        draws_apart: Whether random numbers came from a generator that the function has of its own.

    Memory:
        As much as the memory from outside that the function writes to (the statistics of BatchNorm
        in train mode, say).
    """

    def __init__(self, claims: Claims | None = None) -> None:
        super().__init__()
        self._claims = claims
        self.captured: list[torch.Tensor] = []
        self.draws_apart = False
        self.moved: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._data = DataWatcher(self.moved)
        self._copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by storage, as all that follow
        self._read: dict[int, weakref.ref[torch.Tensor]] = {}  # weakly: constants, too
        self._made_inside: set[int] = set()
        self._views: list[torch.Tensor] = []  # of what is outside, held so that their ids are theirs
        self._known: set[int] = set()  # ids of views and captured tensors

    def __enter__(self) -> WriteWatcher:
        """Look."""
        self._data.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        """Stop looking."""
        super().__exit__(*failure)
        self._data.__exit__(*failure)
        self._views.clear()
        self._known = {id(tensor) for tensor in self.captured}

    @property
    def copied_bytes(self) -> int:
        """Return what the copies take of what was written to."""
        return sum(copy.nbytes for _, copy in self._copies.values())

    def may_rest(self) -> bool:
        """Tell that one evaluation is enough."""
        return True

    def read(self) -> list[torch.Tensor]:
        """Return tensors from outside that took part without requiring grad, and are not written to."""
        unwritten = (ref() for memory, ref in self._read.items() if memory not in self._copies)
        return [tensor for tensor in unwritten if tensor is not None]

    @property
    def written(self) -> Set[int]:
        """Return the memory that was written to."""
        return self._copies.keys()

    def restore(self, memories: Set[int]) -> None:
        """Give tensors that were written to the values back that they had.

        Args:
            memories: Where.
        """
        with torch.no_grad(), torch.inference_mode(False):
            for tensor, copy in self._held(memories):
                tensor.copy_(copy)

    def exchange(self) -> None:
        """Give tensors that were written to the values that are kept, and keep theirs; done twice, nothing happened.

        Graphs that hold such a tensor go on: ``data`` counts changes for itself, and the values come back.
        """
        with torch.no_grad(), torch.inference_mode(False):
            for tensor, copy in self._held(self.written):
                for piece, other in zip(tensor.data.split(_PIECE_SIZE), copy.split(_PIECE_SIZE)):
                    values = piece.clone()
                    piece.copy_(other)
                    other.copy_(values)

    def _held(self, memories: Set[int]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield tensors that were written to, with their copies; not those whose memory was freed since."""
        for memory, (tensor, copy) in self._copies.items():
            if memory in memories and tensor.untyped_storage().nbytes() >= copy.nbytes:
                yield tensor, copy

    def lasting(self, tree: Any) -> Any:
        """Return a tree so that its tensors keep their values when others get theirs back."""
        return tree_map(lambda part: part.clone() if self._has_copy_of(part) else part, tree)

    def _has_copy_of(self, part: Any) -> bool:
        """Tell whether a tensor will change when values are given back."""
        is_dense = isinstance(part, torch.Tensor) and part.layout == torch.strided
        return is_dense and memory_of(part) in self._copies

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look at what goes in and what comes out."""
        if kwargs.get("generator") is not None and not are_fixed():
            self.draws_apart = True
        outside = set()
        for tensor in _tensors((*args, *kwargs.values())):
            memory = memory_of(tensor)
            if memory not in self._made_inside:
                outside.add(memory)
                self._note(tensor, memory)
        if outside:
            for tensor in _tensors(_argument(place, args, kwargs) for place in _written(func)):
                if memory_of(tensor) in outside:
                    self._keep(tensor)
        made = func(*args, **kwargs)
        for tensor in _tensors((made,)):
            if memory_of(tensor) in outside:
                self._views.append(tensor)
                self._known.add(id(tensor))
            else:
                self._made_inside.add(memory_of(tensor))
        return made

    def _note(self, tensor: torch.Tensor, memory: int) -> None:
        """Note a tensor from outside that takes part."""
        if id(tensor) in self._known:
            return
        if tensor.requires_grad:
            self.captured.append(tensor)
            self._known.add(id(tensor))
        elif memory not in self._read or self._read[memory]() is None:
            self._read[memory] = weakref.ref(tensor)

    def _keep(self, tensor: torch.Tensor) -> None:
        """Copy the memory under a tensor before its first change: later ones may be elsewhere in it."""
        if memory_of(tensor) not in self._copies:
            if self._claims is not None:
                self._claims.claim(memory_of(tensor))
            with torch.no_grad():
                n_elements = tensor.untyped_storage().nbytes() // tensor.element_size()
                whole = tensor.detach().as_strided((n_elements,), (1,), 0)
                self._copies[memory_of(tensor)] = (whole, whole.clone())


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


def _tensors(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Yield dense tensors among values."""
    return (tensor for tensor in tensors_among(values) if tensor.layout == torch.strided)
