"""A call leaves what it found: buffers, and tensors that the function writes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from chunkjac._problem.effects.claims import Claims
from chunkjac._problem.effects.data import PlainData
from chunkjac._problem.effects.found import Found
from chunkjac._problem.modules import unwrap_attributes
from chunkjac._problem.problem import Problem
from chunkjac._problem.write_watcher import WriteWatcher


class LeftAsFound:
    """Hold what there was before a function was evaluated, or, while that is back in place, what it has made of it.

    The function runs once in reverse mode and many times in others; what it leaves behind would
    tell of that. Enter the watcher that is given for the first evaluation.

    What only a first evaluation changes is no trace of this call but the function's own beginning: a module that takes
    its scale from the first batch that it sees, and remembers in an attribute that it has. To give back the scale and
    not the attribute would break it. So where a function has changed something, it is evaluated plainly once more at
    the end: what that does not change stays as the first evaluation left it.

    Args:
        problem: The function.

    Attributes:
        room: What is entered for that evaluation.
    """

    def __init__(self, problem: Problem) -> None:
        self.room: AbstractContextManager[Any] = nullcontext()
        self._problem = problem
        self._claims = Claims()
        self._found = Found(problem.modules, self._claims)
        self._n_entered = PlainData.n_entered

    def __enter__(self) -> WriteWatcher:
        """Return what is to look at the first evaluation."""
        return self._found.watcher

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """Put all back that every evaluation changes."""
        try:
            self._end(was_stopped=kind is not None and not issubclass(kind, Exception))
        finally:
            self._claims.release()

    def _end(self, *, was_stopped: bool) -> None:
        """Put all back, unless only a first evaluation changes it.

        Args:
            was_stopped: Whether nothing may be evaluated any more.
        """
        is_plain = PlainData.n_entered == self._n_entered or unwrap_attributes(self._problem.modules)
        changed = self._found.changed()
        again = None
        try:
            if not was_stopped and (changed - self._found.statistics() or not is_plain):
                again = self._again()
            self._put_back(changed, again)
        except KeyboardInterrupt:
            self._put_back(changed, again)
            raise

    @contextmanager
    def back_in_place(self) -> Iterator[None]:
        """Put modules and tensors back for a while; what they become meanwhile is what is found from then on."""
        self._found.exchange()
        memories = self._claims.release()
        try:
            yield
        finally:
            for memory in memories:
                self._claims.claim(memory)
            self._found.exchange()

    def _again(self) -> Found | None:
        """Evaluate the function plainly; return what there was before that, or nothing if it cannot be."""
        found = Found(self._problem.modules)
        try:
            with self.room, found.watcher:
                self._problem.drawing(again=False).evaluate()
        except BaseException as error:
            found.put_back(found.changed())
            if not isinstance(error, Exception):
                raise
            return None
        return found

    def _put_back(self, changed: set[Any], again: Found | None) -> None:
        """Put back what was changed; what an evaluation has not changed again stays."""
        if again is None:
            self._found.put_back(changed)
            return
        changed_again = again.changed()
        again.put_back(changed_again - changed)
        lasting = changed & changed_again
        self._found.put_back(lasting | (changed & self._found.memories_of(lasting)))
