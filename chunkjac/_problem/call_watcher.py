"""What is cheap to see of an evaluation: which calls may write, and how much they make."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from chunkjac._memory import LiveBytes
from chunkjac._problem.departures import Departures
from chunkjac._problem.effects.randomness import are_fixed
from chunkjac._problem.write_watcher import WriteWatcher
from chunkjac._tensors import memory_of, tensors_among

# Functions of these kinds, if of the last kind in these modules, tell by their names whether they write.
_BUILTIN = (BuiltinFunctionType, MethodDescriptorType, MethodWrapperType, WrapperDescriptorType)
_KINDS = (*_BUILTIN, FunctionType)
_IN_PYTHON = ("torch.nn.functional", "torch.functional", "torch._tensor")

# These write to running statistics, observers or weights (``max_norm``), and do not end in an underscore. Those of
# `torch.nn.functional` that normalise are told by an argument whether they do.
_UNSAID = ("batch_norm", "instance_norm", "embedding", "moving_avg")

# Their flags say whether there are biases, whether dropout is on, ...: nothing is written to.
_HARMLESS = ("gru", "lstm", "rnn_tanh", "rnn_relu")

# Copies of so much may be made in vain, of what the function has made itself, before all calls are looked at closely.
_SMALL_BYTES = 2**20

# These give memory that was there before, and is none of their arguments'.
_SHARING = {"__get__", "from_numpy", "as_tensor", "asarray", "frombuffer", "from_file", "from_dlpack"}

# The nodes of a recurrence are of one step each, and a call gives all steps: those within make so many times as much
# as it gives, at most.
_MOST_TIMES = 16

# Operators that work in place are named like ``__iadd__``; these are not among them.
_NOT_IN_PLACE = ("__invert__", "__index__", "__int__")


class CallWatcher(TorchFunctionMode):
    """Call those who look closely for the calls that need it, and add up what all calls give.

    A :class:`WriteWatcher` and a :class:`LiveBytes` look at each operation, which takes 10 microseconds
    for each of the two: as long as the operation itself in a small network. This sees the calls
    that a function makes from Python (an LSTM cell is one, of 15 operations), in 2 microseconds.

    The watcher of writes gets the calls that may write to memory, by their names: all that work in place,
    those that are not torch's own, and what is given ``out`` or ``True`` (``inplace``,
    ``training``). Not those that work in place on what the function has made itself: on what has a
    graph that is newer than this, or memory that a call of torch's has made. Once it has copied much, it gets all
    that follow, so that it knows what else the function made. What a scripted function or a compiled
    extension writes to beside what it returns is not seen: use a :class:`WriteWatcher` where those are known to be.

    The tracker, if given, gets all calls from the one on that brings the sum of what was made to
    its share; that sum counts as alive then, and where it stays below, at the end. Calls of many operations (an LSTM
    is one) count as so many times what they give, once it is known how many.

    Args:
        watcher: What looks for writing.
        tracker: What counts live bytes where that is needed.
        share_bytes: What may be made without being counted.
        departures: Takes what derivatives do not follow.

    Attributes:
        made_bytes: The bytes of all that calls gave, views included: of some nothing else is seen (linear layers).
    """

    def __init__(
        self,
        watcher: WriteWatcher,
        tracker: LiveBytes | None = None,
        share_bytes: int = 0,
        departures: Departures | None = None,
    ) -> None:
        super().__init__()
        self._departures = departures or Departures()
        self.made_bytes = 0
        self._watcher = watcher
        self._tracker = tracker
        self._share_bytes = share_bytes
        self._is_counted = False
        self._largest_bytes = 0
        self._told_bytes = 0
        self._n_calls = 0
        self._is_followed = False
        self._own: set[int | None] = set()
        self._draws_apart = False
        self._first_node = torch._C._autograd._get_sequence_nr()

    @property
    def draws_apart(self) -> bool:
        """Tell whether random numbers came from a generator that the function has of its own."""
        return self._draws_apart or self._watcher.draws_apart

    def tell(self, n_nodes: int = 0) -> None:
        """Let the tracker count what was made and it has not seen: once that is much, and at the end.

        Args:
            n_nodes: How many nodes the graph has that came of it: where they are more than the calls, each of them is
                taken to have made as much as a call gave.
        """
        if self._tracker is None:
            return
        n_times = min(_MOST_TIMES, max(1, n_nodes / max(1, self._n_calls)))
        n_bytes = int(n_times * self.made_bytes)
        self._tracker.assume(n_bytes - self._told_bytes, self._largest_bytes)
        self._told_bytes = n_bytes

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a call, have it looked at closely if need be, and add up what it gives."""
        self._n_calls += 1
        if kwargs or self._is_followed or self._is_counted or not (isinstance(func, _BUILTIN) and _is_plain(func)):
            self._departures.note(func, args, kwargs)
            made = self._looked_at(func, args, kwargs or {})
        else:  # most calls
            made = func(*args)
        if type(made) is torch.Tensor:
            self._take(made, func, args, kwargs)
        elif isinstance(made, (torch.Tensor, tuple, list)) and type(made) is not torch.Size:
            for value in (made,) if isinstance(made, torch.Tensor) else tensors_among(made):
                self._take(value, func, args, kwargs)
        if self.made_bytes > self._share_bytes and self._tracker is not None and not self._is_counted:
            self._is_counted = True
            self.tell()
        return made

    def _looked_at(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a call that may write or draw."""
        if kwargs.get("generator") is not None and not are_fixed():
            self._draws_apart = True
        closely = self._is_followed or (_may_write(func, args, kwargs) and not self._writes_its_own(func, args))
        with self._counting(), self._watcher if closely else nullcontext():
            made = func(*args, **kwargs)
        if closely:
            self._is_followed = self._watcher.copied_bytes > _SMALL_BYTES
        return made

    def _take(self, made: torch.Tensor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        """Add a tensor that a call gave, until all is counted, and note whose memory it is."""
        if not made.requires_grad:  # else its node tells whose it is
            self._claim(made, func, args, kwargs)
        if self._is_counted or made.layout is not torch.strided:
            return
        n_bytes = made.nbytes
        self.made_bytes += n_bytes
        if n_bytes > self._largest_bytes:
            self._largest_bytes = n_bytes

    def _claim(self, made: torch.Tensor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        """Note the memory of a tensor as the function's own, if a call of torch's has made it."""
        memory = _memory(made)
        if memory is not None and _makes_memory(func):
            given = tensors_among((*args, *(kwargs or {}).values()))
            if all(_memory(other) != memory for other in given):
                self._own.add(memory)

    def _writes_its_own(self, func: Any, args: tuple[Any, ...]) -> bool:
        """Tell whether a call works in place on what the function has made itself.

        That is so if the tensor, or that which it is a view of, is the result of a node that is newer than this; or
        if a call has made its memory. What is outside exists all the while, so its memory is none of these.
        """
        if not (isinstance(func, _BUILTIN) and _works_in_place(func.__name__) and isinstance(args[0], torch.Tensor)):
            return False
        node = (args[0] if args[0]._base is None else args[0]._base).grad_fn
        if node is not None and self._first_node <= node._sequence_nr():
            return True
        memory = _memory(args[0]) if self._own else None
        return memory is not None and memory in self._own

    def _counting(self) -> AbstractContextManager[Any]:
        """Return the tracker, if it is needed by now."""
        return self._tracker if self._tracker is not None and self._is_counted else nullcontext()


def _memory(tensor: torch.Tensor) -> int | None:
    """Return the identity of the memory under a tensor; ``None`` where it has none, as within transforms."""
    try:
        return memory_of(tensor)
    except (NotImplementedError, RuntimeError):
        return None


@cache
def _is_plain(func: Any) -> bool:
    """Tell whether a function of torch's, given no keywords, writes to nothing and is no departure."""
    return _writes(func) is False and not Departures.are_told_by(func)


def _may_write(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether a call may write to memory that was there before it."""
    try:
        may = _writes(func)
    except TypeError:  # it has no hash
        return True
    if may is not None:
        return may or "out" in kwargs
    return "out" in kwargs or any(value is True for value in (*args, *kwargs.values()))


def _works_in_place(name: str) -> bool:
    """Tell whether an operation of torch writes to its first argument and nothing else, by its name."""
    return (name.endswith("_") and not name.startswith("_")) or name == "__setitem__" or name.startswith("__i")


def _makes_memory(func: Any) -> bool:
    """Tell whether what a call gives is new, or an argument's memory."""
    is_ours = isinstance(func, _BUILTIN) or (isinstance(func, FunctionType) and func.__module__ in _IN_PYTHON)
    return is_ours and func.__name__ not in _SHARING


@cache
def _writes(func: Any) -> bool | None:
    """Tell whether a function may write, unless to an ``out`` that it is given; ``None`` if a flag says so."""
    if not isinstance(func, _KINDS):
        return True
    name, is_python = func.__name__, isinstance(func, FunctionType)
    if name == "requires_grad_" or name in _HARMLESS:
        return False
    if is_python and func.__module__ not in _IN_PYTHON:
        return True
    if name.startswith("__"):
        return name in ("__set__", "__setitem__") or (name.startswith("__i") and name not in _NOT_IN_PLACE)
    if name.endswith("_") or name.startswith("embedding") or (not is_python and any(part in name for part in _UNSAID)):
        return True
    return None if is_python else False
