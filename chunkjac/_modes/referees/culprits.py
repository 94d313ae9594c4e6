"""Which operation is the likely cause of a wrong derivative: each is differentiated alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.pullbacks import VmapGrad
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.referees.claims import judged
from chunkjac._modes.referees.slopes import slopes_along
from chunkjac._modes.referees.trust import claim_of, unknown_nodes
from chunkjac._problem import Departures, Problem
from chunkjac._tensors import Tensors, tensors_among

# So many operations are looked at, of so many elements at most.
_MOST_CALLS, _MOST_NUMEL = 300, 2**20

_BACKWARD = "Backward"


def likely_cause(problem: Problem, name: str) -> str | None:
    """Return the likely cause of a mode's wrong derivative, in words; ``None`` if nothing was found.

    Args:
        problem: The function and its inputs.
        name: The mode.
    """
    suspects = _Suspects(name)
    try:
        with torch.no_grad(), suspects:
            problem.flat(*(x.clone() for x in problem.inputs))
    except Exception:
        pass
    if suspects.found is not None:
        return f"the likely cause is {suspects.found}, which torch differentiates wrongly here"
    if suspects.infinite is not None:
        return f"the likely cause is {suspects.infinite}, which is not finite there"
    if problem.departures.hidden:
        return f"the likely cause is that numbers leave autograd in func ({', '.join(problem.departures.hidden)})"
    unknown = _unknown(problem, name)
    return f"the likely cause is {' or '.join(unknown)}" if unknown else None


def _unknown(problem: Problem, name: str) -> list[str]:
    """Return operations that are not known to be right, custom functions first."""
    try:
        with torch.no_grad():
            nodes = unknown_nodes(problem, VmapGrad(problem).outputs, name) or []
    except Exception:
        return []
    custom = [node.removesuffix(_BACKWARD) for node in nodes if node.endswith(_BACKWARD)]
    return (custom or [node.partition(_BACKWARD)[0] for node in nodes])[:3]


class _Suspects(TorchFunctionMode):
    """Differentiate each operation alone, at the inputs that it has, until one is wrong.

    Args:
        name: The mode that is in doubt.

    Attributes:
        found: What is wrong; ``None`` if nothing is so far.
        infinite: The first that gives what is not finite for what is.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.found: str | None = None
        self.infinite: str | None = None
        self._name = name
        self._n_left = _MOST_CALLS

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Look at an operation, and run it."""
        kwargs = kwargs or {}
        if self.found is None and self._n_left and not Departures.are_told_by(func):
            try:
                is_wrong = self._is_wrong(func, args, kwargs)
            except Exception:  # it has no derivative, or no tensors
                is_wrong = False
            if is_wrong:
                self.found = _name_of(func)
        made = func(*args, **kwargs)
        if self.infinite is None and _are_finite([*args, *kwargs.values()]) and not _are_finite([made]):
            self.infinite = _name_of(func)
        return made

    def _is_wrong(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Tell whether an operation's derivative is not what differences tell."""
        leaves, spec = tree_flatten((args, kwargs))
        chosen = [i for i, leaf in enumerate(leaves) if _varies(leaf)]
        if not chosen:
            return False
        self._n_left -= 1
        inputs = tuple(leaves[i].detach().clone() for i in chosen)

        def alone(*given: torch.Tensor) -> Tensors:
            values = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
            for i, value in zip(chosen, given):
                values[i] = value * 1  # which may be written to
            called, named = tree_unflatten(values, spec)
            made = func(*called, **named)
            return tuple(leaf for leaf in tree_leaves(called[0] if made is None else made) if _varies(leaf))

        problem = Problem.of(alone, inputs, tuple(range(len(inputs))), False)
        modes: dict[str, Callable[[Problem], Any]] = {"reverse": Reverse, "forward": Forward}
        return not judged(claim_of(modes[self._name](problem)), problem, slopes_along(problem)).agrees


def _are_finite(values: Sequence[Any]) -> bool:
    """Tell whether all numbers of tensors are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in tensors_among(values) if _varies(tensor))


def _name_of(func: Any) -> str:
    """Return what an operation is called."""
    return str(getattr(func, "__name__", func)).strip("_")


def _varies(value: Any) -> bool:
    """Tell whether a value is a tensor whose elements may vary."""
    is_real = isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided
    return is_real and 0 < value.numel() <= _MOST_NUMEL
