"""A step through ``torch.compile``, at its one shape.

What the prologue makes comes in as arguments, so the code is right for other inputs as well. The products
that only see seeds stay outside: which rows they take depends on where the chunk begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from chunkjac._programs.graph.graph import Graph, Node
from chunkjac._programs.replay.program import RunStep
from chunkjac._tensors import Tensors

# What inductor, Triton and dynamo say where the machine has nothing to compile with (torch 2.6-2.13).
_NO_COMPILER = ("compiler", "cxx", "triton", "not supported")


class Compiled:
    """Hold the code of a step; it is compiled when that is first called.

    Args:
        graph: The step without the products that are made ahead.
        needs: What it is given beside the seeds and these products.
    """

    def __init__(self, graph: Graph, needs: Sequence[Node]) -> None:
        self._needs = tuple(needs)
        self._module = _as_module(graph, self._needs)
        self._code: Callable[..., Any] | None = None

    def bind(self, given: Tensors, values: Mapping[Node, Any]) -> Callable[[int], Tensors]:
        """Return what runs the step on what ``given`` holds then.

        Modes that watch operations are off meanwhile: nothing can be compiled below them, and compiled
        code does not call what they watch.
        """
        if self._code is None:
            self._code = torch.compile(self._module, dynamic=False, fullgraph=True)
        code = self._code
        rest = [values[node] for node in self._needs]
        arguments = [part.detach() if isinstance(part, torch.Tensor) else part for part in (*given, *rest)]

        def step(start: int) -> Tensors:
            with _disable_current_modes():
                return tuple(code(*arguments))

        return step


def with_seeded(step: RunStep, seeded: Sequence[Node], places: Tensors, values: Mapping[Node, Any]) -> RunStep:
    """Return a step that first writes the products that only see seeds into their places."""
    ahead = [(node.func, values[node.args[0]], place) for node, place in zip(seeded, places) if node.func is not None]

    def whole(start: int) -> Tensors:
        for operation, constant, place in ahead:
            operation(start, constant, out=place)
        return step(start)

    return whole


def captured(step: RunStep, device: torch.device) -> RunStep:
    """Return the replay of a step's kernels as a CUDA graph: all that it reads stays where it is.

    Source:
        PyTorch's notes on CUDA, "CUDA Graphs": warm up on a side stream, then capture.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(0)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = step(0)

    def replay(start: int) -> Tensors:
        graph.replay()
        return made

    return replay


def remedy(error: BaseException, device: torch.device) -> str:
    """Say what helps against a step that could not be compiled."""
    text = f"{type(error).__name__} {error}".lower()
    if any(word in text for word in _NO_COMPILER):
        what = "a C++ compiler (g++ or clang++; the variable CXX names it)" if device.type == "cpu" else "Triton"
        return f"install {what}, or leave compile at False"
    return "leave compile at False"


def _as_module(graph: Graph, needs: Sequence[Node]) -> fx.GraphModule:
    """Write a step as a module that takes what is given, and then what it needs."""
    code = fx.Graph()
    env: dict[Node, Any] = {node: code.placeholder(f"v{i}") for i, node in enumerate((*graph.given, *needs))}
    for node in graph.nodes:
        assert node.func is not None
        args = tuple(_rewritten(part, env) for part in node.args)
        kwargs = {key: _rewritten(part, env) for key, part in node.kwargs.items()}
        env[node] = code.call_function(node.func, args, kwargs)
    code.output(tuple(env[node] for node in graph.outputs))
    return fx.GraphModule(torch.nn.Module(), code)


def _rewritten(value: Any, env: Mapping[Node, Any]) -> Any:
    """Return an argument with nodes replaced; shapes become plain tuples."""
    if isinstance(value, Node):
        return env[value]
    if isinstance(value, list):
        return [_rewritten(part, env) for part in value]
    return tuple(_rewritten(part, env) for part in value) if isinstance(value, tuple) else value
