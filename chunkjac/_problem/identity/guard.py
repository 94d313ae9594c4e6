"""What a function's behaviour may depend on beside tensors, as far as that can be seen.

Theorem: what a function does with tensors depends on its code, on what it reads from Python, and on values of
tensors that it reads. A recorded program has none of the last kind that is not looked at again, and Python and
torch's own libraries stay as they are. So as long as all that code of the user's can reach is the same, the program is
what the function would do. What cannot be looked into, or changes by itself (an iterator, a clock), makes a guard
incomplete: then the program is compared with one direction of the function in each run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from chunkjac._problem.identity.places import PLAIN, Reach
from chunkjac._problem.problem import Problem


class Guard:
    """Tell whether anything has changed that a function can be seen to depend on; tensors' values are not looked at.

    Args:
        problem: The function and its arguments.

    Attributes:
        is_complete: Whether all that the function reaches could be looked into.
    """

    def __init__(self, problem: Problem) -> None:
        reach = Reach()
        arguments = _other_arguments(problem)
        for root in (problem.func, *arguments, *problem.modules):
            reach.add(root)
        reach.follow()
        self.is_complete = reach.is_complete
        self._reach = reach
        self._arguments = arguments
        self._sizes = reach.sizes()
        self._values = reach.values()
        self._ids = [*map(id, self._values)]

    def is_sure(self, problem: Problem) -> bool:
        """Tell whether all could be looked into, and is as it was."""
        return self.is_complete and self.holds(problem)

    def holds(self, problem: Problem) -> bool:
        """Tell whether all is as it was: the same objects, or equal numbers and texts."""
        if not _all_alike(_other_arguments(problem), self._arguments) or self._reach.sizes() != self._sizes:
            return False
        values = self._reach.values()
        return [*map(id, values)] == self._ids or _all_alike(values, self._values)


def _other_arguments(problem: Problem) -> list[Any]:
    """Return what the function is given beside tensors, and how that is arranged."""
    leaves, spec = tree_flatten(problem.args)
    return [spec, *(leaf for leaf in leaves if not isinstance(leaf, torch.Tensor))]


def _all_alike(these: list[Any], those: list[Any]) -> bool:
    """Tell whether things are the same, or are numbers, texts and the like that are equal and of the same type."""
    return len(these) == len(those) and all(
        this is that or (isinstance(this, _ALIKE) and type(this) is type(that) and this == that)
        for this, that in zip(these, those)
    )


_ALIKE = (*PLAIN, type(tree_flatten(())[1]))
