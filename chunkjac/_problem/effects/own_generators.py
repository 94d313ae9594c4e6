"""Generators that are the function's own, from which operations draw in the place of torch's."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from chunkjac._memory import OperationMode
from chunkjac._problem.effects.randomness import RandomState, set_state, stamp_of, state_of, undisturbed
from chunkjac._tensors import tensors_among

# Where one of these arguments is zero, nothing is drawn.
_SHARES = ("dropout_p", "dropout", "p")

# The state before the draw of a number, where it is not that after the draw before.
Jumps = dict[int, torch.Tensor]


class OwnGenerators(OperationMode):
    """Draw from generators that are the function's own, and stand where torch's stood.

    A function may set torch's generators, to draw the same numbers each time, and put them back. These follow:
    where torch's are found elsewhere than at the last draw, these go there, or to where they were when torch's were
    there before. (Another thread that draws meanwhile looks the same; so where these went is written down, and they
    go there again.)

    Args:
        start: Where they begin.
        jumps: Where they are set before which draws, on each device; ``None`` to find out.

    Attributes:
        draws: Whether anything was drawn.
        saw_checkpoint: Whether something was drawn where what the graph saves goes through hooks.
    """

    def __init__(self, start: RandomState, jumps: dict[torch.device, Jumps] | None = None) -> None:
        super().__init__()
        self.draws = self.saw_checkpoint = False
        self._start = start
        with undisturbed():
            self._each = {
                device: _Generator(device, state, None if jumps is None else jumps[device])
                for device, state in start.states
            }

    @property
    def is_set(self) -> bool:
        """Tell whether the function may have set torch's generators."""
        return any(each.jumps for each in self._each.values())

    def again(self) -> OwnGenerators:
        """Return some that draw the same again."""
        return OwnGenerators(self._start, {device: each.jumps for device, each in self._each.items()})

    def onwards(self) -> OwnGenerators:
        """Return these, to draw what comes next, and to follow torch's only where the function has been seen to go."""
        for each in self._each.values():
            each.begin_again()
        return self

    def have_passed(self, state: RandomState) -> bool:
        """Tell whether these have been where torch's are."""
        return all(stamp_of(now) in self._each[device].passed for device, now in state.states)

    def have_seen(self, state: RandomState) -> bool:
        """Tell whether torch's are where these last saw them."""
        return all(stamp_of(now) == self._each[device].seen for device, now in state.states)

    def have_been_set_to(self, state: RandomState) -> bool:
        """Tell whether the function had set torch's there when these looked: another thread moves on."""
        return any(stamp_of(now) in self._each[device].found for device, now in state.states)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Have an operation draw from a generator of the function's own, unless it has one."""
        if torch.Tag.nondeterministic_seeded not in func.tags or _never_draws(func, args, kwargs):
            return func(*args, **kwargs)
        tensors = tensors_among((*args, *kwargs.values()))
        own = self._each.get(tensors[0].device if tensors else kwargs.get("device") or torch.device("cpu"))
        if own is None:
            return func(*args, **kwargs)
        made = own.run(func, args, kwargs)
        if own.has_moved:
            self.draws = True
            self.saw_checkpoint = self.saw_checkpoint or _saves_through_hooks()
        return made


class _Generator:
    """Stand for torch's generator on one device.

    Args:
        device: Which device.
        state: Where it begins.
        jumps: Where it is set before which draws; ``None`` to find out.

    Attributes:
        jumps: The same, as found out so far.
        passed: Stamps of the states that it has had.
        seen: The stamp of the state that torch's had when this followed it last.
        found: Stamps of those to which this has followed it.
        has_moved: Whether the last operation drew anything.
    """

    def __init__(self, device: torch.device, state: torch.Tensor, jumps: Jumps | None) -> None:
        self.jumps: Jumps = {} if jumps is None else jumps
        self.seen = stamp_of(state_of(device))
        self.passed = {stamp_of(state)}
        self.found: set[int] = set()
        self.has_moved = False
        self._device = device
        self._finds_out = self._follows = jumps is None
        self._generator = torch.Generator(device)
        self._generator.set_state(state)
        self._left: dict[int, torch.Tensor] = {}
        self._n_draws = 0

    def begin_again(self) -> None:
        """Begin another evaluation where the last one ended."""
        self._finds_out = False
        self._left.clear()
        self.seen = stamp_of(state_of(self._device))

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation that may draw."""
        if self._follows:
            self._follow()
        elif self._n_draws in self.jumps:
            self._generator.set_state(self.jumps[self._n_draws])
        before = stamp_of(self._generator.get_state())
        made = self._run(func, args, kwargs)
        after = stamp_of(self._generator.get_state())
        self.has_moved = after != before
        if self._finds_out:
            self.passed.add(after)
        self._n_draws += 1
        return made

    def _follow(self) -> None:
        """Go where torch's generator is, if that is elsewhere than at the last draw."""
        state = state_of(self._device)
        stamp = stamp_of(state)
        if stamp == self.seen or not (self._finds_out or stamp in self.found or stamp in self._left):
            return
        self._left[self.seen] = self._generator.get_state()
        state = self._left.get(stamp, state)
        self._generator.set_state(state)
        self.seen = stamp
        if self._finds_out:
            self.jumps[self._n_draws] = state
            self.found.add(stamp)

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operation; one that takes no generator with torch's, which stands here for that time."""
        named = _with_generator(func)
        if named is not None:
            place = [argument.name for argument in func._schema.arguments].index("generator") if named is func else None
            return named(*args[:place], **{**kwargs, "generator": self._generator})
        callers = state_of(self._device)
        set_state(self._device, self._generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            self._generator.set_state(state_of(self._device))
            set_state(self._device, callers)


@cache
def _with_generator(func: Any) -> Any:
    """Return the operation, or its like, that is told which generator to draw from; ``None`` if there is none."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func
    for overload in func.overloadpacket.overloads():
        other = getattr(func.overloadpacket, overload)
        others = [argument.name for argument in other._schema.arguments]
        if "generator" in others and [name for name in others if name != "generator"] == names:
            return other
    return None


def _never_draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Tell whether an operation draws nothing of torch's, as its arguments say."""
    given = {argument.name: value for argument, value in zip(func._schema.arguments, args)} | kwargs
    return given.get("generator") is not None or any(given.get(name) == 0 for name in _SHARES)


def _saves_through_hooks() -> bool:
    """Tell whether what the graph saves goes through somebody's hooks, as in checkpoints."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and hooks[0] is not save_nothing


def save_nothing(_: Any) -> Any:
    """Be a hook by which a graph saves nothing: it is never gone back through."""
