"""What random numbers a function draws, and the same again, with nobody else's touched.

Torch's generators are the process's: other threads draw from them too. So a function's evaluations draw from generators
of its own, which stand where torch's stood when the job began, and torch's are left alone; what is drawn is known from
the operations, not from a generator that has moved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch

from chunkjac._memory import at_the_bottom
from chunkjac._problem.effects.own_generators import OwnGenerators
from chunkjac._problem.effects.randomness import RandomState
from chunkjac._problem.transforms import outside_transforms
from chunkjac._tensors import Tensors

T = TypeVar("T")


class Draws:
    """Evaluate a function for a job.

    The first evaluation draws from torch's generators. Where those have not moved, the function draws nothing, and
    that is all. Where they have, it is evaluated once more under a mode that sees operations: then it is known whether
    it was the function, and torch's generators are put back if nobody else has moved them. All other evaluations draw
    from generators of the function's own.

    Torch's are set to where they were, and put back, for each evaluation where that cannot be done: in checkpoints,
    which save the state of torch's generators to draw the same in the backward pass, and in compiled functions, whose
    operations are not seen.

    Args:
        devices: Where the function runs, as far as can be told; ``None`` to leave all to torch.
        again: Whether each evaluation draws the same numbers.
        is_compiled: Whether operations cannot be seen.

    Attributes:
        drew: Whether the function is known to draw random numbers of torch's.
        start: What state torch's generators had at the first evaluation.
    """

    def __init__(
        self, devices: set[torch.device] | None = None, *, again: bool = False, is_compiled: bool = False
    ) -> None:
        self.drew = False
        self.start: RandomState | None = None
        self._devices = devices
        self._again = again
        self._is_known = devices is None
        self._is_seen = not is_compiled
        self._own: OwnGenerators | None = None  # from the first evaluation on, if those can be used
        self._ahead: RandomState | None = None  # where torch's would stand had the function drawn from them

    def evaluate(self, call: Callable[[Sequence[torch.Tensor]], T], inputs: Tensors, point: Tensors) -> T:
        """Evaluate the function.

        Args:
            call: The function.
            inputs: What it is called with: within transforms, perhaps.
            point: Where it may be evaluated outside of them.
        """
        if self.drew:
            return self._other(partial(call, inputs))
        return call(inputs) if self._is_known else self._first(call, inputs, point)

    def _first(self, call: Callable[[Sequence[torch.Tensor]], T], inputs: Tensors, point: Tensors) -> T:
        """Evaluate it for the first time."""
        start = self.start = self._now()
        try:
            try:
                value = call(inputs)
            except Exception:
                if start.has_moved():
                    self._learn(start, call, point, failed=True)
                raise
            is_alone = not start.has_moved() or self._learn(start, call, point, failed=False)
        except BaseException as error:
            if not isinstance(error, Exception):  # Ctrl-C: nothing may be evaluated any more to find out who has drawn
                start.restore()
            raise
        self._is_known = True
        return value if is_alone or not self._again else self._other(partial(call, inputs))

    def _learn(
        self, start: RandomState, call: Callable[[Sequence[torch.Tensor]], object], point: Tensors, *, failed: bool
    ) -> bool:
        """Find out whether it was the function that moved torch's generators; return whether nobody else has.

        Args:
            start: Where they were before.
            call: The function.
            point: Where it is evaluated.
            failed: Whether it failed the first time.
        """
        after, own = self._now(), OwnGenerators(start)
        is_known = is_seen = self._is_seen
        try:
            if is_seen:
                with at_the_bottom(own), outside_transforms():
                    call([x.detach().clone() for x in point])
        except Exception:  # as before, or for want of room, or the mode cannot be on
            is_known, is_seen = False, failed
        if not is_seen:  # then it is taken to be the function
            self.drew, self._is_known, self._ahead = True, True, after
            start.restore()
            return True
        if is_known:
            self.drew, self._is_known, self._own = own.draws, True, own
        is_alone = own.have_passed(after)
        if own.draws and is_alone and own.have_seen(self._now()):
            start.restore()
        return is_alone or not own.draws

    def _other(self, call: Callable[[], T]) -> T:
        """Evaluate it again, where it draws."""
        if self._own is None:
            return self._by_torchs(call)
        own = self._own.again() if self._again else self._own.onwards()
        before = self._now() if own.is_set else None
        with at_the_bottom(own):
            value = call()
        if before is not None and self._own.have_been_set_to(self._now()):
            before.restore()
        if self._again and own.saw_checkpoint:
            self._own = None
            return self._by_torchs(call)
        return value

    def _by_torchs(self, call: Callable[[], T]) -> T:
        """Evaluate it with torch's generators, which stand elsewhere for that time."""
        callers, own = self._now(), self.start if self._again else self._ahead
        assert own is not None
        own.restore()
        try:
            return call()
        finally:
            self._ahead = self._now()
            callers.restore()

    def _now(self) -> RandomState:
        """Return where torch's generators are."""
        return RandomState.now(self._devices or ())
