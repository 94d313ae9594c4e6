"""A call's arguments, checked: they make a job."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, TypedDict

import torch

from chunkjac._config import get_config
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._memory import find_budget, find_device
from chunkjac._modes import MODES, SCHEME_NAMES, read_bounds, read_step
from chunkjac._planner.job import Job
from chunkjac._planner.progress import ProgressOption
from chunkjac._planner.selection import Request
from chunkjac._problem import RANDOMNESS, Problem
from chunkjac._sinks import read_out


class Options(TypedDict, total=False):
    """Hold the options that all share what is computed from a Jacobian; see :func:`chunkjac.jacobian`."""

    argnums: int | tuple[int, ...]
    mode: str
    scheme: str
    step: Any
    batching: str | int
    bounds: Any
    max_memory: int | str | None
    chunk_size: int | None
    randomness: str
    progress: ProgressOption
    return_report: bool


def check_options(name: str, options: Options) -> None:
    """Refuse options that there are not.

    Args:
        name: Whose options they are.
        options: What the user gave.

    Raises:
        ArgumentTypeError: The message names the option, and those that there are.
    """
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise ArgumentTypeError(
            f"{name} takes no {', '.join(unknown)}; its options are {', '.join(Options.__annotations__)}."
        )


def job_of(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    mode: str = "auto",
    scheme: str = "central",
    step: Any = None,
    batching: str | int = "auto",
    bounds: Any = None,
    max_memory: int | str | None = None,
    chunk_size: int | None = None,
    out: Any = None,
    resume: bool = False,
    randomness: str = "error",
    create_graph: bool = False,
    verify: int = 0,
    compile: bool = False,
    progress: ProgressOption = None,
    return_report: bool = False,
    device: torch.device | str | None = None,
) -> Job:
    """Check what a call asks for."""
    check_name("mode", mode, MODES)
    check_name("scheme", scheme, SCHEME_NAMES)
    for name, is_given in {
        "step": step is not None,
        "scheme": scheme != "central",
        "batching": batching != "auto",
        "bounds": bounds is not None,
    }.items():
        if is_given and mode in ("reverse", "forward"):
            raise ArgumentError(f"{name} is for finite differences, found mode={mode!r}; leave one of the two out.")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise ArgumentTypeError(f"progress must be a bool or a callable, found {type(progress).__name__}.")
    check_name("randomness", randomness, RANDOMNESS)
    if randomness == "different" and mode != "forward":
        raise ArgumentError(
            f"randomness='different' needs mode='forward', found mode={mode!r}: others evaluate func once, or compare."
        )
    if create_graph and mode == "finite-difference":
        raise ArgumentError("create_graph=True needs derivatives, found mode='finite-difference'; leave it at False.")
    if not isinstance(compile, bool):
        raise ArgumentTypeError(f"compile must be a bool, found {compile!r}.")
    if compile and mode == "finite-difference":
        raise ArgumentError(
            "compile=True compiles derivatives, found mode='finite-difference'; leave one of the two out."
        )
    if compile and randomness == "different":
        raise ArgumentError(
            "compile=True needs one function for all directions, found randomness='different'; leave one out."
        )
    n_checks = read_verify(verify)
    problem = Problem.of(func, args, argnums, has_aux, randomness)
    config = get_config()
    target = problem.device if device is None else find_device(device)
    settings = {"scheme": scheme, "step": step, "batching": batching, "bounds": bounds}
    destination = read_out(out, resume=resume, settings=settings, here=target)
    if mode == "auto":
        mode = destination.known_mode or mode
    destination.refuse(create_graph=create_graph, verify=n_checks)
    if randomness == "different" and (create_graph or verify or destination.is_repeatable):
        raise ArgumentError(
            "randomness='different' gives every direction its own function: nothing can differentiate or check that "
            "again, nor go on with it in a file; leave create_graph, verify and the path in out."
        )
    place = "max_memory" if max_memory is not None else "the setting max_memory"
    budget = find_budget(config.max_memory if max_memory is None else max_memory, target, place)
    if compile and budget.explicit:
        raise ArgumentError(
            f"compile=True cannot keep to a limit, found {budget.source}: what compiled code allocates is not seen; "
            "leave max_memory or compile out."
        )
    return Job(
        problem=problem,
        request=Request(
            mode,
            scheme,
            read_step(step, problem.inputs, problem.spec),
            batching=read_batching(batching),
            bounds=read_bounds(bounds, problem.inputs, problem.spec),
            timed=not destination.is_repeatable,
        ),
        device=target,
        budget=budget,
        chunk_size=read_chunk_size(chunk_size),
        out=destination,
        settings=settings,
        create_graph=create_graph,
        verify=n_checks,
        compile=compile,
        progress=config.progress if progress is None else progress,
        return_report=return_report,
    )


_BATCHINGS = ("auto", "vmap", "native", "loop")


def check_name(argument: str, value: Any, known: Iterable[str] | Mapping[str, Any]) -> None:
    """Refuse an unknown name, and suggest the nearest."""
    names = list(known)
    if value not in names:
        near = get_close_matches(str(value), names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ArgumentError(f"{argument} must be one of {', '.join(map(repr, names))}, found {value!r}{hint}")


def read_chunk_size(chunk_size: Any) -> int | None:
    """Refuse what is no count."""
    if chunk_size is None:
        return None
    if isinstance(chunk_size, bool) or not hasattr(chunk_size, "__index__"):
        raise ArgumentTypeError(f"chunk_size must be None or an int, found {chunk_size!r}.")
    if operator.index(chunk_size) < 1:
        raise ArgumentError(f"`chunk_size` should be greater than 0, found {chunk_size}; None plans it.")
    return operator.index(chunk_size)


def read_verify(verify: Any) -> int:
    """Refuse what is no number of checks."""
    if not hasattr(verify, "__index__"):
        raise ArgumentTypeError(f"verify must be a number of checks, found {verify!r}.")
    if operator.index(verify) < 0:
        raise ArgumentError(f"verify must be 0 or more checks, found {verify}.")
    return operator.index(verify)


def read_batching(batching: Any) -> str | int:
    """Refuse what is neither the name of a rung nor a dimension."""
    if isinstance(batching, str):
        check_name("batching", batching, _BATCHINGS)
        return batching
    if isinstance(batching, bool) or not hasattr(batching, "__index__"):
        raise ArgumentTypeError(f"batching must be one of {', '.join(map(repr, _BATCHINGS))}, or an int: {batching!r}.")
    return operator.index(batching)
