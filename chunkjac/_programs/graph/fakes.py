"""Recording without computing: on fakes, which have all that is recorded but values."""

from __future__ import annotations

from collections.abc import Callable

from torch._subclasses.fake_tensor import FakeTensor

from chunkjac._memory import strict_fakes
from chunkjac._programs.graph.graph import Graph
from chunkjac._programs.graph.recorder import NotLinearError
from chunkjac._tensors import Tensors


def recorded_cheaply(record: Callable[[Tensors], Graph], tensors: Tensors, *, computes: bool) -> Graph:
    """Record on tensors, or on fakes wherever that can be done.

    Args:
        record: Records what is done with tensors.
        tensors: These.
        computes: Whether fakes are not worth it.

    Raises:
        NotLinearError: It cannot be recorded.
    """
    return (None if computes else recorded_on_fakes(record, tensors)) or record(tensors)


def recorded_on_fakes(record: Callable[[Tensors], Graph], tensors: Tensors) -> Graph | None:
    """Record on fakes that stand for tensors; return ``None`` where values are needed for that.

    Strides of fakes may differ from those of a kernel's results: nothing is read by them but in the places that replay
    gives to results itself, and a view that is then impossible is an error.

    Raises:
        NotLinearError: It cannot be recorded.
    """
    try:
        with strict_fakes() as fake:
            graph = record(tuple(map(fake.from_tensor, tensors)))
    except NotLinearError:
        raise
    except Exception:
        return None
    return None if any(isinstance(tensor, FakeTensor) for tensor in graph.constants.values()) else graph
