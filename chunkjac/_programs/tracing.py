"""One direction recorded: what depends on the seed, and the values that it uses of all else."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from chunkjac._programs.graph.fakes import recorded_cheaply
from chunkjac._programs.graph.graph import Graph, Node, run_all
from chunkjac._programs.graph.lives import peak_bytes
from chunkjac._programs.graph.recorder import recorded
from chunkjac._programs.graph.saved import GraphReading
from chunkjac._programs.graph.script import Script
from chunkjac._programs.passes.merging import merged
from chunkjac._programs.passes.real_transforms import with_real_transforms
from chunkjac._programs.passes.rules import RULES
from chunkjac._tensors import Tensors


@dataclass(frozen=True, slots=True)
class Trace:
    """Hold a recorded direction as linear maps, for any values.

    Attributes:
        graph: What the rules say that it does, as far as the result depends on it.
        values: The nodes of what it uses beside the seed.
        seeds: The nodes of the seed.
        source: What tells whether a direction is the same, and which values it uses.
        before: The operations that do not depend on the seed.
        used: The nodes among them, values and constants that others use.
        direction_bytes: About what a direction's intermediate results take.
        read_bytes: What all values take.
    """

    graph: Graph
    values: tuple[Node, ...]
    seeds: tuple[Node, ...]
    source: Script | GraphReading
    before: tuple[Node, ...]
    used: set[Node]
    direction_bytes: int
    read_bytes: int


def trace_of(raw: Graph, seed: Tensors, source: Script | GraphReading, *, computes: bool = True) -> Trace:
    """Return a recorded direction as linear maps of the seed.

    Args:
        raw: The recording; its constants are values.
        seed: What it was recorded for.
        source: What tells whether a direction is the same.
        computes: Whether rules are applied to these values, or to fakes wherever that can be done.

    Raises:
        NotLinearError: Values of what depends on the seed would be read.
    """
    values = tuple(raw.constants.values())

    def record(tensors: Tensors) -> Graph:
        known = dict(zip((*raw.constants, *raw.given), tensors, strict=True))

        def again() -> Tensors:
            made = run_all(raw.nodes, known, {*raw.outputs})
            return tuple(made[node] if node in made else known[node] for node in raw.outputs)

        return recorded(again, tensors, tensors[len(values) :], RULES)[0]

    graph = with_real_transforms(merged(recorded_cheaply(record, (*values, *seed), computes=computes))).live()
    used = {part for node in graph.nodes if node.varies for part in node.operands if not part.varies}
    used.update(node for node in graph.outputs if not node.varies)
    return Trace(
        graph,
        graph.given[: len(values)],
        graph.given[len(values) :],
        source,
        tuple(node for node in graph.nodes if not node.varies),
        used,
        max(1, peak_bytes([node for node in graph.nodes if node.varies])),
        sum(value.nbytes for value in values if value.layout == torch.strided),
    )
