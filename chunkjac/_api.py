"""What users call: arguments are checked and handed on."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import torch

from chunkjac._config import get_config
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._job import Job
from chunkjac._memory import find_budget, find_device
from chunkjac._plan import Plan
from chunkjac._planning import plan_job
from chunkjac._problem import Problem
from chunkjac._progress import ProgressOption
from chunkjac._randomness import RANDOMNESS
from chunkjac._run import run_job
from chunkjac._select import Request
from chunkjac._steps import SCHEMES, read_step
from chunkjac._types import MODES


def jacobian(
    func: Callable[..., Any],
    *args: Any,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    mode: str = "auto",
    scheme: str = "central",
    step: Any = None,
    max_memory: int | str | None = None,
    chunk_size: int | None = None,
    out: Any = None,
    randomness: str = "error",
    progress: ProgressOption = None,
    return_report: bool = False,
) -> Any:
    """Compute the Jacobian of ``func`` at ``args`` under a memory budget.

    Args:
        func: Takes ``args``, returns a tensor or a tree (tuples, lists, dicts) of tensors.
        *args: The point. The arguments that ``argnums`` names are tensors of real
            floating-point numbers, or trees of them; others may be anything.
        argnums: The argument to differentiate with respect to, or a tuple of several.
        has_aux: Whether ``func`` returns ``(output, aux)``, of which ``aux`` is handed on.
        mode: ``"reverse"`` makes rows, ``"forward"`` columns, ``"finite-difference"`` columns
            without derivatives, ``"auto"`` takes the one with the least work.
        scheme: For finite differences: ``"forward"``, ``"backward"`` or ``"central"``.
        step: For finite differences: ``None`` finds it from dtype, scheme and ``abs(x)``;
            or a float, or tensors shaped like the inputs. An error in other modes.
        max_memory: The most bytes that tensors may take beside those alive at the call:
            an int, ``"4GiB"``, ``"500MB"``, or ``"80%"`` of what is free now.
        chunk_size: Exactly this many directions at a time; ``None`` plans it.
        out: Tensors to write into, in the result's tree; they do not count.
        randomness: What ``func`` may draw where it is evaluated several times (forward mode, finite
            differences): ``"error"`` refuses random numbers, ``"same"`` gives every evaluation the
            same, ``"different"`` its own to each direction (forward mode only). Reverse mode
            evaluates once.
        progress: A bool, or a callable that gets a :class:`chunkjac.Progress` after each chunk.
        return_report: Also return the :class:`chunkjac.Report`.

    Returns:
        The Jacobian in torch.func's tree: for each output, for each input, a tensor. With
        ``has_aux`` or ``return_report`` a tuple: Jacobian, aux, report, as far as asked for.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.
        FunctionError: ``func`` does what no Jacobian can be made of.
        BudgetError: One direction does not fit; the message says what would be needed.

    Shapes:
        ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        At most ``max_memory``, the result included unless ``out`` is given.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.jacobian(lambda x: x**2, torch.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])
    """
    job = _job(
        func,
        args,
        argnums=argnums,
        has_aux=has_aux,
        mode=mode,
        scheme=scheme,
        step=step,
        max_memory=max_memory,
        chunk_size=chunk_size,
        out=out,
        randomness=randomness,
        progress=progress,
        return_report=return_report,
    )
    return run_job(job).deliver(job)


def plan(
    func: Callable[..., Any],
    *args: Any,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    mode: str = "auto",
    scheme: str = "central",
    step: Any = None,
    max_memory: int | str | None = None,
    chunk_size: int | None = None,
    out: Any = None,
    randomness: str = "error",
    progress: ProgressOption = None,
    device: torch.device | str | None = None,
) -> Plan:
    """Plan a Jacobian without computing it.

    The function runs on fake tensors, which have shapes and no values. A function that needs
    values (``.item()``, branches on them, NumPy) runs for real instead, on a few directions.

    Args:
        func: As for :func:`jacobian`, and so are all other arguments.
        *args: See there.
        argnums: See there.
        has_aux: See there.
        mode: See there; ``"auto"`` goes by the numbers of rows and columns, since fakes take no time.
        scheme: See there.
        step: See there.
        max_memory: See there.
        chunk_size: See there.
        out: See there.
        randomness: See there.
        progress: See there.
        device: Plan for this device; it need not be here, and ``max_memory`` is in bytes then. The
            function runs on fake tensors where its inputs are; ``run`` takes them on the device.

    Returns:
        A :class:`Plan`; print it to read it, call its ``run`` to compute the Jacobian.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does.

    Example:
        >>> import torch, chunkjac as cj
        >>> p = cj.plan(torch.sin, torch.zeros(100), mode="reverse", max_memory="1MiB")
        >>> p.n_outputs, p.n_inputs, p.result_bytes
        (100, 100, 40000)
        >>> p.run().shape
        torch.Size([100, 100])
        >>> cj.plan(torch.sin, torch.zeros(100), device="cuda", max_memory="8GiB").n_chunks
        1
    """
    job = _job(
        func,
        args,
        argnums=argnums,
        has_aux=has_aux,
        mode=mode,
        scheme=scheme,
        step=step,
        max_memory=max_memory,
        chunk_size=chunk_size,
        out=out,
        randomness=randomness,
        progress=progress,
        device=device,
    )
    return plan_job(job)


def jacrev(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    *,
    has_aux: bool = False,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func`` in reverse mode.

    Args:
        func: As for :func:`jacobian`.
        argnums: As for :func:`jacobian`.
        has_aux: As for :func:`jacobian`.
        chunk_size: Rows at a time; ``None`` plans it.

    Returns:
        A function of ``func``'s arguments that returns what ``torch.func.jacrev`` would, but
        without a graph: the result cannot be differentiated yet.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.

    Shapes:
        As :func:`jacobian`: ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        As :func:`jacobian`, within the budget of the settings.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.jacrev(torch.sin)(torch.zeros(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return _like_torch(func, argnums=argnums, has_aux=has_aux, chunk_size=chunk_size, mode="reverse")


def jacfwd(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func`` in forward mode.

    Args:
        func: As for :func:`jacobian`.
        argnums: As for :func:`jacobian`.
        has_aux: As for :func:`jacobian`.
        chunk_size: Columns at a time; ``None`` plans it. ``torch.func.jacfwd`` has no chunks.

    Returns:
        A function of ``func``'s arguments that returns what ``torch.func.jacfwd`` would, but
        without a graph: the result cannot be differentiated yet.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.

    Shapes:
        As :func:`jacobian`: ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        As :func:`jacobian`, within the budget of the settings.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.jacfwd(torch.sin)(torch.zeros(2))
        tensor([[1., 0.],
                [0., 1.]])
    """
    return _like_torch(func, argnums=argnums, has_aux=has_aux, chunk_size=chunk_size, mode="forward")


def jacfd(
    func: Callable[..., Any],
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    *,
    scheme: str = "central",
    step: Any = None,
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """Return a function that computes the Jacobian of ``func`` by finite differences.

    Args:
        func: As for :func:`jacobian`; it needs no derivatives.
        argnums: As for :func:`jacobian`.
        has_aux: As for :func:`jacobian`.
        scheme: ``"forward"`` (error of the order of the step), ``"backward"`` (the same) or
            ``"central"`` (of its square, for twice the work).
        step: As for :func:`jacobian`.
        chunk_size: Columns at a time; ``None`` plans it.

    Returns:
        A function of ``func``'s arguments that returns the Jacobian in torch.func's tree.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.
        FunctionError: ``func`` gives different answers for the same input.

    Shapes:
        As :func:`jacobian`: ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        As :func:`jacobian`, within the budget of the settings.

    Source:
        The method of the paper JacrevFinite, in chunks.

    Example:
        >>> import torch, chunkjac as cj
        >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
        >>> cj.jacfd(lambda x: x**2)(x).diagonal().round(decimals=6)
        tensor([2., 4.], dtype=torch.float64)
    """
    return _like_torch(
        func,
        argnums=argnums,
        has_aux=has_aux,
        chunk_size=chunk_size,
        mode="finite-difference",
        scheme=scheme,
        step=step,
    )


def _like_torch(func: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a function of the point, in torch.func's way."""
    if not callable(func):
        raise ArgumentTypeError(f"func must be callable, found {type(func).__name__}.")

    _read_chunk_size(options["chunk_size"])
    _check_name("scheme", options.get("scheme", "central"), SCHEMES)

    @functools.wraps(func, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def jacobian_of(*args: Any) -> Any:
        return jacobian(func, *args, **options)

    return jacobian_of


def _job(
    func: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    argnums: int | tuple[int, ...],
    has_aux: bool,
    mode: str,
    scheme: str,
    step: Any,
    max_memory: int | str | None,
    chunk_size: int | None,
    out: Any,
    randomness: str,
    progress: ProgressOption,
    return_report: bool = False,
    device: torch.device | str | None = None,
) -> Job:
    """Check what a call asks for."""
    _check_name("mode", mode, MODES)
    _check_name("scheme", scheme, SCHEMES)
    if step is not None and mode in ("reverse", "forward"):
        raise ArgumentError(f"step is for finite differences, found mode={mode!r}; leave one of the two out.")
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise ArgumentTypeError(f"progress must be a bool or a callable, found {type(progress).__name__}.")
    _check_name("randomness", randomness, RANDOMNESS)
    if randomness == "different" and mode != "forward":
        raise ArgumentError(
            f"randomness='different' needs mode='forward', found mode={mode!r}: others evaluate func once, or compare."
        )
    problem = Problem.of(func, args, argnums, has_aux, randomness)
    config = get_config()
    target = problem.device if device is None else find_device(device)
    place = "max_memory" if max_memory is not None else "the setting max_memory"
    return Job(
        problem=problem,
        request=Request(mode, scheme, read_step(step, problem.inputs, problem.spec)),
        device=target,
        budget=find_budget(config.max_memory if max_memory is None else max_memory, target, place),
        chunk_size=_read_chunk_size(chunk_size),
        out=out,
        progress=config.progress if progress is None else progress,
        return_report=return_report,
    )


def _check_name(argument: str, value: Any, known: Iterable[str] | Mapping[str, Any]) -> None:
    """Refuse an unknown name, and suggest the nearest."""
    names = list(known)
    if value not in names:
        near = get_close_matches(str(value), names, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ArgumentError(f"{argument} must be one of {', '.join(map(repr, names))}, found {value!r}{hint}")


def _read_chunk_size(chunk_size: Any) -> int | None:
    """Refuse what is no count."""
    if chunk_size is None:
        return None
    if isinstance(chunk_size, bool) or not hasattr(chunk_size, "__index__"):
        raise ArgumentTypeError(f"chunk_size must be None or an int, found {chunk_size!r}.")
    if operator.index(chunk_size) < 1:
        raise ArgumentError(f"chunk_size must be at least 1, found {chunk_size}; None plans it.")
    return operator.index(chunk_size)
