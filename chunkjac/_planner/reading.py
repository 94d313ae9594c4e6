"""A call's options read, checked against one another, made a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, NamedTuple

import torch

from chunkjac._arguments import read_argnums, read_bool, read_int, read_name, reading, shown
from chunkjac._config import Config, get_config
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._memory import Budget, find_budget, find_device
from chunkjac._modes import MODES, SCHEME_NAMES, read_bounds, read_step
from chunkjac._planner.job import Job
from chunkjac._planner.options import Options
from chunkjac._problem import RANDOMNESS, Problem
from chunkjac._sinks import read_out
from chunkjac._units import read_bytes

_BATCHINGS = ("auto", "vmap", "native", "loop")

# No tensor has more dimensions, or elements.
_MOST_DIMENSIONS = 64
_MOST_DIRECTIONS = 2**63 - 1

# Each takes an evaluation or two, and one is as sure as rounding allows.
_MOST_CHECKS = 1000


def read_options(name: str, given: Mapping[str, Any], taken: type) -> Options:
    """Return a call's options; those that were not given have their defaults.

    Args:
        name: What was called.
        given: What it was given.
        taken: What it takes.

    Raises:
        ArgumentTypeError, ArgumentError: The message names the option, and what it may be.
    """
    unknown = sorted(given.keys() - taken.__annotations__)
    if unknown:
        names = [field.name for field in fields(Options) if field.name in taken.__annotations__]
        near = get_close_matches(unknown[0], names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ArgumentTypeError(f"{name} takes no {', '.join(unknown)}; its options are {', '.join(names)}.{hint}")
    options = Options(**{key: read_option(key, value) for key, value in given.items()})
    for clash in _CLASHES:
        if clash.name in given and clash.when(options):
            raise ArgumentError(clash.why.format(options))
    return options


def job_of(func: Callable[..., Any], args: tuple[Any, ...], options: Options) -> Job:
    """Return what a call asks for."""
    problem = Problem.of(func, args, options.argnums, options.has_aux, options.randomness)
    config = get_config()
    device = problem.device if options.device is None else torch.device(options.device)
    out = read_out(options.out, resume=options.resume, settings=options.settings, here=device)
    if options.mode == "auto" and out.known_mode is not None:
        options = replace(options, mode=out.known_mode)
    out.refuse(create_graph=options.create_graph, verify=options.n_checks)
    with reading("step", options.step):
        steps = read_step(options.step, problem.inputs, problem.spec)
    with reading("bounds", options.bounds):
        bounds = read_bounds(options.bounds, problem.inputs, problem.spec)
    if options.randomness == "different" and out.is_repeatable:
        raise ArgumentError(_NEVER_AGAIN)
    return Job(
        problem,
        options,
        device,
        _budget_of(options, device, config),
        out=out,
        steps=steps,
        bounds=bounds,
        progress=config.progress if options.progress is None else options.progress,
        return_report=options.return_report,
    )


def _budget_of(options: Options, device: torch.device, config: Config) -> Budget:
    """Return the budget: the option's, or the setting's, or the device's own."""
    if options.max_memory is not None:
        budget = find_budget(options.max_memory, device)
    else:
        budget = find_budget(config.max_memory, device, "the setting max_memory")
    if options.compile and budget.explicit:
        raise ArgumentError(
            f"compile=True cannot keep to a limit, found {budget.source}: what compiled code allocates is not seen; "
            "leave max_memory or compile out."
        )
    return budget


def read_option(name: str, value: Any) -> Any:
    """Return an option as it is meant: of its own type, and Python's own numbers and text.

    Raises:
        ArgumentTypeError, ArgumentError: The message names the option, and what it may be.
    """
    with reading(name, value):
        return _READERS[name](value) if name in _READERS else value


def _read_chunk_size(chunk_size: Any) -> int | None:
    """Refuse what is no count."""
    if chunk_size is None:
        return None
    size = read_int("chunk_size", chunk_size, "None or an int")
    if size < 1:
        raise ArgumentError(f"`chunk_size` should be greater than 0, found {shown(size)}; None plans it.")
    return min(size, _MOST_DIRECTIONS)


def _read_batching(batching: Any) -> str | int:
    """Refuse what is neither the name of a rung nor a dimension."""
    if isinstance(batching, str):
        return read_name("batching", batching, _BATCHINGS)
    dim = read_int("batching", batching, f"one of {', '.join(map(repr, _BATCHINGS))}, or an int")
    if abs(dim) > _MOST_DIMENSIONS:
        raise ArgumentError(f"batching must be a dimension of the inputs, found {shown(dim)}; 0 is the leading one.")
    return dim


def _read_verify(verify: Any) -> int | str:
    """Refuse what is no number of checks."""
    if isinstance(verify, str) and verify == "auto":
        return verify
    n_checks = read_int("verify", verify, "'auto' or a number of checks")
    if not 0 <= n_checks <= _MOST_CHECKS:
        raise ArgumentError(
            f"verify must be 0 to {_MOST_CHECKS} checks, each of which tells of all elements, found {shown(n_checks)}."
        )
    return n_checks


def _read_progress(progress: Any) -> Any:
    """Refuse what is neither a bool nor to be called."""
    if progress is None or progress is True or progress is False:
        return progress
    if isinstance(progress, type) or not callable(progress):
        raise ArgumentTypeError(f"progress must be a bool or a callable, found {shown(progress)}.")
    return progress


# What reads an option as it was given; others are read where the problem or the device is known.
_READERS: Mapping[str, Callable[[Any], Any]] = {
    "argnums": read_argnums,
    "mode": lambda value: read_name("mode", value, MODES),
    "scheme": lambda value: read_name("scheme", value, SCHEME_NAMES),
    "batching": _read_batching,
    "max_memory": lambda value: None if value is None else read_bytes("max_memory", value),
    "chunk_size": _read_chunk_size,
    "randomness": lambda value: read_name("randomness", value, RANDOMNESS),
    "verify": _read_verify,
    "progress": _read_progress,
    "device": lambda value: None if value is None else find_device(value),
    **{name: partial(read_bool, name) for name in ("has_aux", "resume", "create_graph", "compile", "return_report")},
}


class _Clash(NamedTuple):
    """Hold what an option does not go with: only what is given can clash.

    Attributes:
        name: The option.
        when: Tells whether others are so that it cannot be heeded.
        why: The message, a format of the options.
    """

    name: str
    when: Callable[[Options], bool]
    why: str


def _is_derivative(options: Options) -> bool:
    """Tell whether a mode is asked for that takes derivatives."""
    return options.mode in ("reverse", "forward")


def _is_difference(options: Options) -> bool:
    """Tell whether finite differences are asked for."""
    return options.mode == "finite-difference"


def _is_different(options: Options) -> bool:
    """Tell whether each direction is to have its own random numbers."""
    return options.randomness == "different"


_ONLY_DIFFERENCES = "{} is for finite differences, found mode={{0.mode!r}}; leave one of the two out."
_NEVER_AGAIN = (
    "randomness='different' gives every direction its own function: nothing can differentiate or check that "
    "again, nor go on with it in a file; leave create_graph, verify and the path in out."
)
_CLASHES = (
    _Clash("step", lambda o: o.step is not None and _is_derivative(o), _ONLY_DIFFERENCES.format("step")),
    _Clash("scheme", lambda o: o.scheme != "central" and _is_derivative(o), _ONLY_DIFFERENCES.format("scheme")),
    _Clash("batching", lambda o: o.batching != "auto" and _is_derivative(o), _ONLY_DIFFERENCES.format("batching")),
    _Clash("bounds", lambda o: o.bounds is not None and _is_derivative(o), _ONLY_DIFFERENCES.format("bounds")),
    _Clash(
        "randomness",
        lambda o: _is_different(o) and o.mode != "forward",
        "randomness='different' needs mode='forward', found mode={0.mode!r}: others evaluate func once, or compare.",
    ),
    _Clash(
        "create_graph",
        lambda o: o.create_graph and _is_difference(o),
        "create_graph=True needs derivatives, found mode='finite-difference'; leave it at False.",
    ),
    _Clash(
        "compile",
        lambda o: o.compile and _is_difference(o),
        "compile=True compiles derivatives, found mode='finite-difference'; leave one of the two out.",
    ),
    _Clash(
        "compile",
        lambda o: o.compile and _is_different(o),
        "compile=True needs one function for all directions, found randomness='different'; leave one out.",
    ),
    _Clash("create_graph", lambda o: o.create_graph and _is_different(o), _NEVER_AGAIN),
    _Clash("verify", lambda o: bool(o.n_checks) and _is_different(o), _NEVER_AGAIN),
)
