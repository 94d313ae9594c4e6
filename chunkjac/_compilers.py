"""What torch.compile sees of a call that runs: nothing."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_WHY = (
    "chunkjac.{} looks at each operation as it runs, to keep to its budget, which no graph can: call it outside of "
    "what is compiled with fullgraph=True, or use chunkjac.jacrev, jacfwd or hessian, which become torch.func's there."
)


def outside_of_graphs(name: str) -> Callable[[Function], Function]:
    """Return what lets torch.compile leave a function out of its graphs, with all that it calls.

    ``torch.compiler.disable`` does so, and imports the compiler for it, which takes a second: so it is asked only once
    that is there.

    Args:
        name: What users know the function by: torch refuses it with ``fullgraph=True``, and says why.
    """

    def outside(function: Function) -> Function:
        left_out: list[Callable[..., Any]] = []

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            if "torch._dynamo" not in sys.modules:
                return function(*args, **kwargs)
            if not left_out:
                left_out.append(sys.modules["torch._dynamo"].disable(function))
            return left_out[0](*args, **kwargs)

        vars(called).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=_WHY.format(name))
        return cast("Function", called)

    return outside
