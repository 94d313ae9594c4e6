"""A program in memory."""

from __future__ import annotations

from typing import Any

import torch

from chunkjac._programs.graph.graph import Node
from chunkjac._programs.replay.program import Bind, Feed, Program, RunStep
from chunkjac._tensors import Tensors


class Running:
    """Run a program in memory that it holds.

    Args:
        program: What to run.
        values: What it is given beside the seeds.
        feed: Returns the seeds from a direction on, always at the same place.
        device: Where it runs.

    Attributes:
        program: What was given.
        device: Where it runs.
        values: What the step uses beside the seeds.
        plain: The step by its own code.
    """

    def __init__(self, program: Program, values: Tensors, feed: Feed, device: torch.device) -> None:
        self.program = program
        self.device = device
        self._feed = feed
        self._bind: Bind | None = None
        self._step: RunStep | None = None
        self.values: dict[Node, Any] = program.prologue.run(values)
        self.plain = program.step.bind({**self.values, **dict(zip(program.seeds, self.seeds(0)))}, device)

    def take(self, bind: Bind | None) -> None:
        """Run the step in another form from now on, if there is one."""
        self._bind = bind
        self._step = None if bind is None else bind(self.seeds(0), self.values)

    def begin(self, values: Tensors) -> None:
        """Run the prologue for other values."""
        self.values = self.program.prologue.run(values)
        self.plain.use(self.values)
        self.take(self._bind)

    def rest(self) -> None:
        """Let go of the values."""
        self.plain.use(dict.fromkeys(self.values))
        self.values, self._step = {}, None

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
