"""Short runs of a plan, with nothing planned, in the mode that an earlier run has come to.

Planning takes as long as a job of half a millisecond, and looking at each call for what it writes takes a fifth of a
longer one that is made of many. Where a run was short, and the function wrote to nothing, drew nothing and hid nothing
from autograd, that is left out in later runs: the function is evaluated as it is now, and checked as ever. What its
graph or its parameters tell to have changed leads back to the long way, which looks at all anew.
A write that is nowhere to be seen afterwards (to a tensor in a list, begun after the first run) stays.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import torch
from torch import nn

from chunkjac._modes import Forward, Mode, Reverse, check_mode
from chunkjac._planner import Job
from chunkjac._problem import Departures, Found, Problem, check_computed
from chunkjac._programs import Records
from chunkjac._sinks import NewTensor, TensorSink

# Longer runs have chunks, and time to plan.
_SHORT_S = 0.02

# Where a run takes less, or less than some times what recording a call takes, no program makes it faster.
# That is known when it was tried so often: the first run has lazy work in it.
_TINY_S, _RECORDING_S, _TIMES, _TRIALS = 0.002, 15e-6, 2, 2

# So many graphs are known at once: a solver that reads values has one for each number of steps.
_MOST_GRAPHS = 8

# What the graph of a run is made of: the names of its nodes, and how many there are.
Graph = tuple[frozenset[str], int]


@dataclass(slots=True)
class Shortcut:
    """Hold what runs of a plan have settled.

    Attributes:
        graphs: What their graphs were, and what the function does there that derivatives do not follow; none where runs
            are not to be made so.
        name: The mode.
        seen: The graph of this run, where it goes the long way: some functions do otherwise while calls are looked at.
        elapsed_s: The least time that a run took the long way.
        n_runs: How many runs were made so.
        least_s: The least time that one took.
    """

    graphs: dict[Graph, Departures] = field(default_factory=dict)
    name: str = ""
    seen: Graph | None = None
    elapsed_s: float = inf
    n_runs: int = 0
    least_s: float = inf

    def learn(self, mode: Mode, elapsed_s: float, *, is_plain: bool) -> None:
        """Take in a run that is finished.

        Args:
            mode: What has made the blocks.
            elapsed_s: How long all took.
            is_plain: Whether there was nothing in it that has to be looked at again.
        """
        if not is_plain or len(self.graphs) >= _MOST_GRAPHS:
            self.graphs.clear()
        if is_plain:
            graphs = (_graph_of(mode),) if self.seen is None else (_graph_of(mode), self.seen)
            self.graphs |= dict.fromkeys(graphs, mode.problem.departures)
            self.name, self.elapsed_s = mode.name, min(self.elapsed_s, elapsed_s)
        self.seen = None

    def is_open(self, job: Job, programs: Records) -> bool:
        """Tell whether a run may be made so: unless a program may be faster."""
        is_asked = job.return_report or job.progress is not None or type(job.out) is not NewTensor
        if is_asked or not self.graphs or self.elapsed_s > _SHORT_S:
            return False
        n_nodes = max(n for _, n in self.graphs)
        is_tiny = self.least_s < max(_TINY_S, _TIMES * _RECORDING_S * n_nodes)
        return is_tiny or self.n_runs < _TRIALS or not programs.wants(self.name)

    @torch.inference_mode(False)
    def jacobian(self, job: Job, programs: Records) -> Any:
        """Return the Jacobian; ``None`` where the function is not what it was, and the long way is to be taken."""
        started_s = time.perf_counter()
        modules, problem = job.problem.modules, job.problem.drawing(again=False)
        if any(module.training and _has_buffers(module) for module in modules):
            return None
        found, versions = Found(modules), _versions(modules)
        try:
            jacobian = self._made(problem)
        except Exception:  # the long way tells
            jacobian = None
        finally:
            changes = found.changed()
            if changes or versions != _versions(modules):
                found.put_back(changes)
                self.graphs.clear()
        if jacobian is None or not self.graphs or problem.draws.drew:
            return None
        elapsed_s = time.perf_counter() - started_s
        self.n_runs, self.least_s = self.n_runs + 1, min(self.least_s, elapsed_s)
        programs.of(self.name).note_without(elapsed_s)
        return jacobian

    def _made(self, problem: Problem) -> Any:
        """Return the Jacobian of a function that looks as it did."""
        mode: Reverse | Forward = Reverse(problem, is_quick=True)
        departures = self.graphs.get(_graph_of(mode))
        if departures is None:
            self.seen = _graph_of(mode)
            return None
        mode.problem = replace(problem, departures=departures)
        if self.name == "forward":
            mode = Forward(mode.problem, replace(mode.outputs, nests=bool(departures.nested)))
        check_mode(mode, nullcontext)
        sink, everything = TensorSink(mode, keeps=True), slice(0, mode.directions.n)
        block = mode.block(everything)
        check_computed(block, problem.inputs)
        sink.write(everything, block)
        is_right = not mode.fell and mode.is_confirmed() and sink.is_finite
        mode.close()
        return sink.result() if is_right else None


def _has_buffers(module: nn.Module) -> bool:
    """Tell whether a module may keep statistics."""
    return any(buffer is not None for buffer in module._buffers.values())


def _graph_of(mode: Mode) -> Graph:
    """Return what a graph is made of."""
    return mode.outputs.nodes or frozenset(), mode.outputs.n_nodes


def _versions(modules: list[nn.Module]) -> list[int]:
    """Return how often each tensor was written to that modules hold."""
    held = (values for module in modules for values in (module._parameters, module._buffers) if values)
    return [tensor._version for values in held for tensor in values.values() if tensor is not None]
