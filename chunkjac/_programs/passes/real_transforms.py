"""The real part of a Fourier transform of half a spectrum: half of the work.

Theorem: ``Re sum(g_k e_k)`` over ``k <= n/2`` is the transform to real numbers of g with the inner half of its
frequencies halved, as that counts each of them twice, and once those that are their own mirror image (0 and n/2). So
the backward pass of ``rfft``, which torch pads with zeros to the whole spectrum, need not be complex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from chunkjac._programs.graph.graph import Graph, Node

aten = torch.ops.aten


def with_real_transforms(graph: Graph) -> Graph:
    """Return a graph in which real parts of padded transforms are transforms to real numbers."""
    writers: dict[Node, list[Node]] = {}

    def exchange(_: Node, new: Node) -> list[Node]:
        if new.writes is not None:
            writers.setdefault(new.writes.root, []).append(new)
        found = _half_spectrum(new, writers)
        if found is None or new.layout is None:
            return [new]
        return [replace(new, func=real_part, args=found, layout=new.layout.reshaped(new.layout.shape), memory=None)]

    return graph.rewritten(exchange)


def real_part(half: torch.Tensor, dim: int, norm: int, size: int, is_forward: bool) -> torch.Tensor:
    """Return the real part of the transform of half a spectrum with zeros behind it."""
    ends = [1.0] if size % 2 else [1.0, 1.0]
    parts = [torch.ones(1), torch.full((half.shape[dim] - len(ends),), 0.5), torch.ones(len(ends) - 1)]
    real = half.dtype.to_real()
    weights = torch.cat([part.to(half.device, real) for part in parts])
    weighted = half * weights.view(-1, *[1] * (half.dim() - 1 - dim))
    return aten._fft_c2r(weighted.conj().resolve_conj() if is_forward else weighted, [dim], norm, size)


def _half_spectrum(node: Node, writers: dict[Node, list[Node]]) -> tuple[Any, ...] | None:
    """Return what ``real_part`` is to be given for a node that is one; ``None`` if it is none."""
    chain = [node]
    for func in (aten.view_as_real.default, aten._fft_c2c.default, aten.new_zeros.default):
        source = chain[-1].args[0] if chain[-1].args else None
        if not isinstance(source, Node) or source.func is not func:
            return None
        chain.append(source)
    _, pairs, transform, padded = chain
    _, dims, norm, is_forward = transform.args
    written = writers.get(padded, [])
    if node.func is not aten.select.int or not _is_real(node.args[1:], pairs) or len(dims) != 1 or dims[0] < 0:
        return None
    if len(written) != 1 or padded.layout is None:
        return None
    (copy,) = written
    target, half = copy.args[:2]
    size = padded.layout.shape[dims[0]]
    part = target.args if target.func is aten.slice.Tensor else ()
    is_half = part[:1] == (padded,) and tuple(part[1:]) == (dims[0], 0, size // 2 + 1)
    is_whole = copy.func is aten.copy_.default and half.layout.shape == target.layout.shape
    if half.root in writers or transform.root in writers:  # it may be other than what was copied, or transformed
        return None
    return (half, dims[0], norm, size, is_forward) if is_half and is_whole and size > 1 else None


def _is_real(place: Sequence[Any], pairs: Node) -> bool:
    """Tell whether the real one of a pair is selected."""
    dim, index = place
    n_dims = len(pairs.tensor_layout.shape)
    return dim % n_dims == n_dims - 1 and index == 0
