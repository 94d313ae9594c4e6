"""What users call for a Jacobian: arguments are handed on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import torch

from chunkjac._executor import blocks_of, plan_job, run_job
from chunkjac._planner import Plan, ProgressOption, job_of
from chunkjac._sinks import Block
from chunkjac._store import open_store


def jacobian(
    func: Callable[..., Any],
    *args: Any,
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
        scheme: For finite differences: ``"forward"``, ``"backward"`` (errors of the order of the step),
            ``"central"`` (of its square), ``"central4"`` (of its fourth power, for four evaluations),
            ``"richardson"`` (extrapolated, eight) or ``"complex"`` (exact to rounding, one, for
            functions that are analytic and take complex numbers).
        step: For finite differences: ``None`` finds it from dtype, scheme and ``abs(x)``;
            or a float, or tensors shaped like the inputs. An error in other modes.
        batching: For finite differences, how ``func`` takes several points at once: ``"native"``
            along a leading dimension of inputs and outputs, an int along that one, ``"vmap"``,
            ``"loop"`` one after the other. ``"auto"`` takes a native batch if its rows are seen
            to be independent, else ``vmap``, else the loop. An error in other modes.
        bounds: For finite differences: ``(low, high)``, floats or tensors shaped like the inputs.
            ``func`` is never evaluated outside of them. An error in other modes.
        max_memory: The most bytes that tensors may take beside those alive at the call:
            an int, ``"4GiB"``, ``"500MB"``, or ``"80%"`` of what is free now.
        chunk_size: Exactly this many directions at a time; ``None`` plans it.
        out: Tensors to write into, in the result's tree; they do not count. Or a callable that is given
            each finished :class:`chunkjac.Block`, in order: the Jacobian is never held, and ``None``
            stands in its place. What the callable makes does not count; what it raises comes through. Or an object
            whose ``write`` is called so. Or a device, ``"cpu"`` for instance, where the result is allocated. Or a path:
            a ``.npy`` file for one output and one input, a folder with one for each pair, or a ``.zarr`` folder in
            Zarr's format (extra ``zarr``). Blocks go to disk while the next ones are computed, each is noted once it is
            there, and what is returned is mapped to the files, or consists of Zarr arrays.
        resume: With a path: go on with what is there, in chunks of the size that was planned first; what is finished is
            not computed again. Function, inputs, parameters, mode and versions must be the same.
        randomness: What ``func`` may draw where it is evaluated several times (forward mode, finite
            differences): ``"error"`` refuses random numbers, ``"same"`` gives every evaluation the
            same, ``"different"`` its own to each direction (forward mode only). Reverse mode
            evaluates once.
        create_graph: Whether the Jacobian can be differentiated again, by the inputs and by what
            ``func`` captured. No graph of it is kept: the backward pass computes it anew, a chunk
            at a time.
        verify: In how many random directions to check the finished Jacobian against another mode;
            the error stands in the report, and one that rounding does not explain is raised.
        compile: Whether a chunk's step goes through ``torch.compile`` (10-60 s, once for a plan), and through a CUDA
            graph on CUDA. It is kept where a chunk of the job takes less time so; the report's ``reasons`` tell. It
            needs a compiler (a C++ one on the CPU, Triton on CUDA): without one, a
            :class:`chunkjac.RungWarning` says so, and the job runs uncompiled.
        progress: A bool, or a callable that gets a :class:`chunkjac.Progress` after each chunk.
        return_report: Also return the :class:`chunkjac.Report`.

    Returns:
        The Jacobian in torch.func's tree: for each output, for each input, a tensor. With
        ``has_aux`` or ``return_report`` a tuple: Jacobian, aux, report, as far as asked for.

    Raises:
        ArgumentTypeError, ArgumentError: An argument cannot be used; the message names it.
        FunctionError: ``func`` does what no Jacobian can be made of.
        BudgetError: One direction does not fit; the message says what would be needed.
        StoreError: The path in ``out`` cannot be written to, or there is something else.

    Shapes:
        ``(*output.shape, *input.shape)`` for each pair.

    Memory:
        At most ``max_memory``, the result included unless ``out`` is given. With a callable as ``out`` it does not
        grow with the number of directions.

    Example:
        >>> import torch, chunkjac as cj
        >>> cj.jacobian(lambda x: x**2, torch.tensor([1.0, 2.0]))
        tensor([[2., 0.],
                [0., 4.]])
    """
    job = job_of(
        func,
        args,
        argnums=argnums,
        has_aux=has_aux,
        mode=mode,
        scheme=scheme,
        step=step,
        batching=batching,
        bounds=bounds,
        max_memory=max_memory,
        chunk_size=chunk_size,
        out=out,
        resume=resume,
        randomness=randomness,
        create_graph=create_graph,
        verify=verify,
        compile=compile,
        progress=progress,
        return_report=return_report,
    )
    if job.out.is_repeatable:  # its blocks are to be the same whenever they are computed: planned first
        return plan_job(job).run(return_report=return_report)
    return run_job(job).deliver(job)


def plan(
    func: Callable[..., Any],
    *args: Any,
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
        batching: See there.
        bounds: See there.
        max_memory: See there.
        chunk_size: See there.
        out: See there.
        resume: See there.
        randomness: See there.
        create_graph: See there.
        verify: See there.
        compile: See there; nothing is compiled before the first ``run``.
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
    job = job_of(
        func,
        args,
        argnums=argnums,
        has_aux=has_aux,
        mode=mode,
        scheme=scheme,
        step=step,
        batching=batching,
        bounds=bounds,
        max_memory=max_memory,
        chunk_size=chunk_size,
        out=out,
        resume=resume,
        randomness=randomness,
        create_graph=create_graph,
        verify=verify,
        compile=compile,
        progress=progress,
        device=device,
    )
    return plan_job(job)


def blocks(
    func: Callable[..., Any],
    *args: Any,
    argnums: int | tuple[int, ...] = 0,
    mode: str = "auto",
    scheme: str = "central",
    step: Any = None,
    batching: str | int = "auto",
    bounds: Any = None,
    max_memory: int | str | None = None,
    chunk_size: int | None = None,
    randomness: str = "error",
    progress: ProgressOption = None,
) -> Iterator[Block]:
    """Return the blocks of a Jacobian, one by one; the whole is never held.

    A block is computed when it is asked for. Whoever stops asking has everything put back as it was, and no
    more is computed.

    Args:
        func: As for :func:`jacobian`, and so are all other arguments.
        *args: See there.
        argnums: See there.
        mode: See there.
        scheme: See there.
        step: See there.
        batching: See there.
        bounds: See there.
        max_memory: See there.
        chunk_size: See there.
        randomness: See there.
        progress: See there.

    Returns:
        An iterator of :class:`chunkjac.Block`, in order: ``axis`` tells whether it holds rows or columns, ``slice``
        which of them, ``values`` the tensors.

    Raises:
        ArgumentTypeError, ArgumentError, FunctionError, BudgetError: As :func:`jacobian` does, the last two when
            the first block is asked for.

    Shapes:
        ``(k, *input.shape)`` for each input for rows, ``(k, *output.shape)`` for each output for columns.

    Memory:
        At most ``max_memory``, of which a block that is still referred to is a part. It does not grow with the number
        of directions. Values hold until the next block is asked for: clone what is to be kept.

    Example:
        >>> import torch, chunkjac as cj
        >>> for block in cj.blocks(torch.sin, torch.zeros(5), mode="reverse", chunk_size=2):
        ...     print(block.axis, block.slice.start, block.slice.stop, block.values.shape)
        output 0 2 torch.Size([2, 5])
        output 2 4 torch.Size([2, 5])
        output 4 5 torch.Size([1, 5])
    """
    job = job_of(
        func,
        args,
        argnums=argnums,
        mode=mode,
        scheme=scheme,
        step=step,
        batching=batching,
        bounds=bounds,
        max_memory=max_memory,
        chunk_size=chunk_size,
        randomness=randomness,
        progress=progress,
    )
    return blocks_of(job)


def open_file(path: str | os.PathLike[str]) -> Any:
    """Return a Jacobian that was written to a path, in memory that is mapped to the files: nothing is read yet.

    Args:
        path: What was given as ``out``: a ``.npy`` file, or a folder.

    Returns:
        The Jacobian in torch.func's tree. What is written to its tensors stays in memory, the files never change.
        Of a ``.zarr`` folder, Zarr arrays that can be read only: matrices of flattened outputs and inputs.

    Raises:
        StoreError: Nothing was written there, or not all yet: the message says which rows or columns are missing.

    Shapes:
        ``(*output.shape, *input.shape)`` for each pair; ``(output.numel(), input.numel())`` in Zarr's format.

    Example:
        >>> import tempfile, pathlib, torch, chunkjac as cj
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "J.npy"
        >>> J = cj.jacobian(torch.sin, torch.zeros(3), out=path)
        >>> cj.open(path)
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]])
    """
    return open_store(path)
