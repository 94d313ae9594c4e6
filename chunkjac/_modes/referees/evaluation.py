"""One evaluation that tells which operations there are, and keeps none of their activations."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils._pytree import tree_map

from chunkjac._modes.derivatives.gradient import Gradient
from chunkjac._modes.derivatives.graph_nodes import names_of, nodes_behind
from chunkjac._problem import Outputs, Problem, check_unchanged, save_nothing


def evaluated(problem: Problem) -> Outputs:
    """Evaluate the function once, and return what that tells; with the names of nodes, if it can have a graph.

    The graph is made, and nothing is saved in it: so it holds no memory.
    """
    if isinstance(problem.func, Gradient):  # which knows its own, and torch.func takes no hooks
        return problem.evaluate()[1]
    inputs = [x.detach().clone().requires_grad_() for x in problem.inputs]
    versions = [x._version for x in inputs]
    try:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(save_nothing, save_nothing):
            leaves, spec, aux = problem.call(*inputs)
        check_unchanged(inputs, versions)  # with no_grad, what saves nothing may write to them
        nodes = nodes_behind(leaves)
        aux = tree_map(lambda part: part.detach() if isinstance(part, torch.Tensor) else part, aux)
        return replace(Outputs.of(leaves, spec, aux), nodes=names_of(nodes), n_nodes=len(nodes))
    except Exception:
        pass  # it writes to its input, leaves torch, is wrong, or too large: a plain evaluation tells
    return problem.evaluate()[1]
