"""A program in memory."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch

from chunkjac._programs.graph.graph import Node
from chunkjac._programs.graph.recorder import NotLinearError
from chunkjac._programs.replay.program import Bind, Feed, Program, RunStep
from chunkjac._tensors import Tensors


class NotFiniteError(NotLinearError):
    """Say that a factor is not finite at these inputs: zero times that is not zero."""


class Running:
    """Run a program in memory that it holds.

    Args:
        program: What to run.
        tensors: The inputs.
        feed: Returns the seeds from a direction on, always at the same place.
        owns_inputs: Whether inputs are copied to where others can follow; otherwise this is for these ones.
        is_linear: Whether factors must be finite.

    Raises:
        NotFiniteError: A factor is not finite.

    Attributes:
        owns_inputs: Whether it may be used for other inputs.
        device: Where it runs.
        values: What the step uses beside the seeds.
        plain: The step by its own code.
    """

    def __init__(
        self, program: Program, tensors: Tensors, feed: Feed, *, owns_inputs: bool, is_linear: bool = True
    ) -> None:
        self.program = program
        self.owns_inputs = owns_inputs
        self._feed = feed
        self._addresses = [tensor.data_ptr() for tensor in program.constants.values()]
        self._inputs = tuple(
            tensor if not owns_inputs and tensor.stride() == node.tensor_layout.strides else node.tensor_layout.empty()
            for tensor, node in zip(tensors, program.inputs, strict=True)
        )
        self.device = tensors[0].device
        given: dict[Node, Any] = {**program.constants, **dict(zip(program.inputs, self._inputs))}
        self._prologue = program.prologue.bind(given, self.device)
        known = {**given, **self._prologue.values}
        self.values = {node: known[node] for node in program.step.uses if node not in program.seeds}
        self._is_linear = is_linear
        self._is_looked_at = False
        self.begin(tensors)
        given = {**self.values, **dict(zip(program.seeds, self.seeds(0)))}
        self.plain = program.step.bind(given, self.device)
        self._step: RunStep | None = None

    def take(self, bind: Bind | None) -> None:
        """Run the step in another form from now on, if there is one."""
        if bind is not None:
            self._step = bind(self.seeds(0), self.values)

    def is_current(self) -> bool:
        """Tell whether the tensors from outside still lie where they did."""
        return self._addresses == [tensor.data_ptr() for tensor in self.program.constants.values()]

    def begin(self, tensors: Tensors) -> None:
        """Run the prologue for these inputs.

        Raises:
            NotFiniteError: A factor is not finite.
        """
        for own, tensor in zip(self._inputs, tensors):
            if own is not tensor:
                own.copy_(tensor)
        self._prologue.run()
        if self._is_linear and not (self._is_looked_at and all(_is_finite(memory) for memory in self._prologue.kept)):
            self._look_at_factors()

    def block(self, start: int, places: Tensors | None = None) -> Tensors:
        """Return the block of the directions from ``start`` on; it holds until the next.

        Args:
            start: The first direction.
            places: Where parts of the block may be written; which are, is seen by their being in the block.
        """
        self.seeds(start)
        if self._step is not None:
            return self._step(start)
        step = self.program.step
        if places is None or not step.open or len(places[0]) != self.program.size:
            return self.plain.run(start)
        given = [places[i].view(root.tensor_layout.shape) for i, root in step.open.items()]
        made = self.plain.code(start, *given)
        return tuple(places[i] if i in step.open else part for i, part in enumerate(made))

    def seeds(self, start: int) -> Tensors:
        """Return the seeds from ``start`` on, if the step reads any."""
        return self._feed(start) if self.program.reads_seeds else ()

    def _look_at_factors(self) -> None:
        """Refuse factors that are not finite, of those that were computed."""
        outside = {*self.program.inputs, *self.program.constants}
        factors = [value for node, value in self.values.items() if node.root not in outside]
        if not all(_is_finite(factor) for factor in factors if isinstance(factor, torch.Tensor)):
            raise NotFiniteError("a factor is not finite")
        self._is_looked_at = True


def _is_finite(values: torch.Tensor) -> bool:
    """Tell whether all of some values are finite; sums that are too large are looked at again."""
    if not (values.dtype.is_floating_point or values.dtype.is_complex) or not values.numel():
        return True
    once = values[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in values.stride())]
    return isfinite(abs(once.sum().item())) or bool(once.isfinite().all())
