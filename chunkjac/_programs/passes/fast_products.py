"""Products with constant matrices by the library that is faster here.

Theorem: ``x W + b`` is what a linear layer of weight ``W^T`` and bias ``b`` makes of ``x``.

torch multiplies float32 matrices on the CPU by MKL, which takes AVX2 on processors that are not Intel's, and
convolves by oneDNN, which goes by what the processor can do. On an AMD EPYC with AVX-512 (2 cores, torch 2.13)
oneDNN multiplies 700 x 384 x 1536 at 504 GFlop/s, MKL at 199; on others the two may be alike. So a product is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from chunkjac._programs.graph.graph import Graph, Layout, Node

aten = torch.ops.aten

# Multiplications below which a call's own cost decides: 64 x 64 x 64 takes 9 us by MKL and 14 by oneDNN,
# 2000 x 64 x 64 takes 88 and 47.
_LARGE = 2**21

# What is timed, how often, and which part of MKL's time it must take at most.
_SHAPE, _TURNS, _PAYS = (256, 512, 512), 5, 0.9


def with_fast_products(graph: Graph) -> Graph:
    """Return a graph in which large products with constant matrices are oneDNN's, where that is faster."""
    large = {node for node in graph.nodes if _is_large(node)}
    if not large or not _pays():
        return graph

    def exchange(node: Node, new: Node) -> list[Node]:
        if node not in large:
            return [new]
        *biases, x, matrix = new.args
        turned = _transposed(matrix)
        return [turned, replace(new, func=_LINEAR, args=(x, turned, *(biases or [None]), "none", [], ""))]

    return graph.rewritten(exchange)


def is_product(node: Node) -> bool:
    """Tell whether a node is a product with a constant matrix, plus a constant row if anything."""
    if node.func not in (aten.mm.default, aten.addmm.default) or node.kwargs or len(node.args) > 3:
        return False
    *biases, _, matrix = node.args
    width = matrix.layout.shape[1]
    return not matrix.varies and not any(bias.varies or bias.layout.shape != (width,) for bias in biases)


def _is_large(node: Node) -> bool:
    """Tell whether a node is a large product of a tensor that depends on the seeds with a constant."""
    if not is_product(node) or node.layout is None:
        return False
    x, matrix = node.args[-2:]
    is_usual = node.layout.device.type == "cpu" and node.layout.dtype == torch.float32
    return is_usual and x.varies and not matrix.varies and node.layout.shape.numel() * x.layout.shape[1] >= _LARGE


def _transposed(matrix: Node) -> Node:
    """Return the transposed view of a matrix."""
    layout = matrix.tensor_layout
    (n_rows, n_columns), (down, across) = layout.shape, layout.strides
    turned = Layout(torch.Size((n_columns, n_rows)), (across, down), layout.dtype, layout.device)
    return Node(aten.t.default, (matrix,), {}, turned, memory=matrix.root)


def _pays() -> bool:
    """Tell whether oneDNN is faster here; not if there is no room to find out."""
    try:
        return _is_faster(torch.get_num_threads())
    except MemoryError:
        return False


@cache
def _is_faster(_n_threads: int) -> bool:
    """Tell whether oneDNN multiplies faster than MKL, with so many threads."""
    if _LINEAR is None or not torch.backends.mkldnn.is_available():
        return False
    rows, inner, columns = _SHAPE
    x, matrix = torch.ones(rows, inner), torch.ones(inner, columns)
    ways: list[Callable[[], object]] = [
        lambda: _LINEAR(x, matrix.t(), None, "none", [], ""),
        lambda: torch.mm(x, matrix),
    ]
    ours_s, theirs_s = (min(times_s[1:]) for times_s in zip(*([_time_s(way) for way in ways] for _ in range(_TURNS))))
    return ours_s < _PAYS * theirs_s


def _time_s(run: Callable[[], object]) -> float:
    """Return how long something takes."""
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s


# What inductor multiplies by (torch 2.0-2.13); builds without oneDNN have none.
_LINEAR = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)
