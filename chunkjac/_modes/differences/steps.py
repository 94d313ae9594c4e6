"""How far finite differences go from the base point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten

from chunkjac._arguments import as_float, shown
from chunkjac._chunker import Segment
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._modes.differences.schemes import Scheme, tiny_step
from chunkjac._tensors import Tensors

Step = torch.Tensor | float | None


@dataclass(frozen=True, slots=True)
class Steps:
    """Give the steps of one problem, a few elements at a time.

    Attributes:
        given: The user's step for each leaf: a float, a tensor like the leaf, or ``None``.
        relative: The default step, as a part of ``max(abs(x), 1)``.
    """

    given: tuple[Step, ...]
    relative: float

    @classmethod
    def of(cls, given: tuple[Step, ...], scheme: Scheme, eps: float) -> Steps:
        """Find the default step from the machine epsilon that the function computes with."""
        if scheme.is_complex:
            given = tuple(tiny_step(eps) if h is None else h for h in given)
        return cls(given, float(eps**scheme.step_exponent))

    def scaled(self, factor: float) -> Steps:
        """Return steps that are so many times as long."""
        return Steps(tuple(None if h is None else factor * h for h in self.given), factor * self.relative)

    def of_segment(self, segment: Segment, x: torch.Tensor) -> torch.Tensor:
        """Return the steps of one segment of a chunk.

        Args:
            segment: Which elements of which leaf.
            x: Those elements.
        """
        given = self.given[segment.leaf]
        if given is None:
            return self.relative * x.abs().clamp_(min=1)
        if isinstance(given, torch.Tensor):
            return given.reshape(-1)[segment.elements]
        return torch.full_like(x, given)


def read_step(step: Any, inputs: Sequence[torch.Tensor], spec: TreeSpec) -> tuple[Step, ...]:
    """Return the user's step for each leaf, checked as far as that takes no arithmetic.

    Raises:
        ArgumentTypeError: ``step`` is neither a float nor tensors.
        ArgumentError: ``step`` is not positive, or its tensors are unlike the inputs.
    """
    if step is None:
        return (None,) * len(inputs)
    number = as_float(step)
    if number is not None:
        if not 0 < number < inf:
            raise ArgumentError(f"step must be positive and finite, found {shown(step)}.")
        return (number,) * len(inputs)
    wanted = f"must be None, a float, or tensors shaped like the inputs, found {shown(step)}"
    return leaves_like("step", step, inputs, spec, wanted)


def leaves_like(name: str, given: Any, inputs: Sequence[torch.Tensor], spec: TreeSpec, wanted: str) -> Tensors:
    """Return an argument's tensors, one for each leaf and like it.

    Args:
        name: The argument, for messages.
        given: What the user gave.
        inputs: The leaves.
        spec: Their tree.
        wanted: What it must be, and what it is.

    Raises:
        ArgumentTypeError: It is no tree of tensors like that of the inputs.
        ArgumentError: A tensor is unlike its leaf.
    """
    leaves, given_spec = tree_flatten(given)
    if given_spec != spec or not all(isinstance(leaf, torch.Tensor) for leaf in leaves):
        raise ArgumentTypeError(f"{name} {wanted}.")
    for x, leaf in zip(inputs, leaves):
        if (leaf.shape, leaf.dtype, leaf.device, leaf.layout) != (x.shape, x.dtype, x.device, x.layout):
            raise ArgumentError(
                f"{name} must be like the input, {tuple(x.shape)} {x.dtype} on {x.device}, "
                f"found {tuple(leaf.shape)} {leaf.dtype} on {leaf.device}, {leaf.layout}."
            )
    return tuple(leaves)


def check_steps(
    given: Sequence[Step], scheme: Scheme, inputs: Sequence[torch.Tensor], *, has_bounds: bool = False
) -> None:
    """Refuse steps that are not positive, and those that rounding swallows: they give 0/0.

    Within bounds a step may be shortened, and is looked at where it is taken.

    Raises:
        ArgumentError: The message names an element.
    """
    for x, h in zip(inputs, given):
        if h is None:
            continue
        if isinstance(h, torch.Tensor) and not bool(((h > 0) & h.isfinite()).all()):
            raise ArgumentError("step must be positive and finite in every element.")
        if scheme.is_complex or has_bounds:
            continue  # nothing is added to x; or less than this
        for node in scheme.all_nodes():
            stuck = x + node * h == x
            if bool(stuck.any()):
                at = tuple(int(i) for i in stuck.nonzero()[0])
                raise ArgumentError(
                    f"step is too small to move x at index {at} (x is {float(x[at]):.6g}, {x.dtype}); "
                    "give a larger step, or leave it at None."
                )
