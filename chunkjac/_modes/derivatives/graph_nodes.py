"""The nodes of autograd's graph: how many, how large, known to batch rightly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice
from math import prod
from typing import Any

import torch

from chunkjac._modes.known_nodes import known_nodes
from chunkjac._problem import Outputs

# So many nodes tell how large tensors are on average.
_SAMPLE = 64

# What nodes of fused layers have in their names: attention (flash, efficient, cuDNN), RNNs (oneDNN, cuDNN, MIOpen).
_FUSED = ("Attention", "Rnn", "Lstm", "Gru", "Cudnn", "Mkldnn", "Miopen", "Fused")

# At singular matrices the formula without grad mode is wrong (pytorch #104675; torch 2.13).
_BETTER_IN_GRAD_MODE = frozenset({"LinalgDetBackward0"})

# What stands for an input in the graph.
_LEAF = "torch::autograd::AccumulateGrad"


def needs_grad_mode(outputs: Outputs) -> bool:
    """Tell whether backward passes are to run in grad mode, where some operations have a better formula."""
    return outputs.nodes is not None and not _BETTER_IN_GRAD_MODE.isdisjoint(outputs.nodes)


def nodes_behind(leaves: Sequence[Any]) -> set[Any]:
    """Return the nodes of autograd's graph behind tensors, as far as this level of it goes."""
    ahead = [leaf.grad_fn for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.grad_fn is not None]
    seen: set[Any] = {*ahead}
    while ahead:
        for node, _ in ahead.pop().next_functions:
            if node is not None and node not in seen:
                seen.add(node)
                ahead.append(node)
    return seen


def names_of(nodes: set[Any]) -> frozenset[str]:
    """Return the names of nodes, but for those of the inputs; those that are right in part are told apart."""
    names = {node.name() for node in nodes} - {_LEAF}
    for name in names & _IN_PART.keys():
        kinds = {_IN_PART[name](node) for node in nodes if node.name() == name}
        names = (names - {name}) | {f"{name}{kind}" for kind in kinds}
    return frozenset(names)


def _kind_of_writing(node: Any) -> str:
    """Tell numbers apart that are added, and that are put where no other is: where places come twice, each counts."""
    return "_adding" if node._saved_accumulate else "_apart" if _are_apart(node) else ""


def _are_apart(node: Any) -> bool:
    """Tell whether no two of the places that numbers are put into are the same."""
    try:
        sizes = node._input_metadata[0].shape
        pairs = [(i, size) for i, size in zip(node._saved_indices, sizes) if i is not None]
        places = torch.stack(torch.broadcast_tensors(*(i % size for i, size in pairs if i.dtype != torch.bool)))
        numbers = places.flatten(1)
        is_short = len(pairs) == len(places) and numbers.shape[1] <= _MOST_PLACES
        return is_short and numbers.unique(dim=1).shape[1] == numbers.shape[1]
    except Exception:  # they are fake, or were not saved
        return False


def _kind_of_matrix(node: Any) -> str:
    """Tell matrices that are far from singular apart, by their factors: without an error, others have some as well."""
    try:
        diagonal = node._saved_L.detach().diagonal(dim1=-2, dim2=-1)  # at the first row that fails it is not positive
        least = torch.finfo(diagonal.dtype).eps ** 0.5 * diagonal.amax(-1)
        return "_regular" if bool((diagonal.amin(-1) > least).all()) else ""
    except Exception:  # it is fake, of no size, or was not saved
        return ""


def _kind_of_rolling(node: Any) -> str:
    """Tell what has axes apart: a single number is rolled over those of a batch (torch 2.13)."""
    return "_of_axes" if len(node._input_metadata[0].shape) else ""


# More places take too long to compare.
_MOST_PLACES = 10_000

# Nodes that are right for some of what they have saved.
_IN_PART: dict[str, Callable[[Any], str]] = {
    "IndexPutBackward0": _kind_of_writing,
    "IndexPutImplBackward0": _kind_of_writing,
    "LinalgCholeskyExBackward0": _kind_of_matrix,
    "RollBackward0": _kind_of_rolling,
}


def numel_of(nodes: set[Any]) -> float:
    """Return how many elements a node makes, on average of some."""
    made = [part.shape for node in islice(nodes, _SAMPLE) for part in node._input_metadata]
    return sum(prod(shape) for shape in made) / max(1, len(made))


def are_sure(outputs: Outputs, mode: str) -> bool:
    """Tell whether derivatives are right in batches, by the nodes behind the outputs.

    Theorem: a composition of linear maps that are batched rightly is batched rightly.
    """
    return outputs.nodes is not None and outputs.nodes <= known_nodes("batched", mode)


def are_fused(nodes: frozenset[str] | None) -> bool:
    """Tell whether there are, or may be, nodes of attention or recurrent layers, which do all at once."""
    return nodes is None or any(map(_is_fused, nodes))


@cache
def _is_fused(name: str) -> bool:
    """Tell whether a node does all at once, by its name."""
    return any(word in name for word in _FUSED)
