"""What users call for a Jacobian: arguments are handed on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from chunkjac._api.signature import shows
from chunkjac._arguments import read_bool, read_path
from chunkjac._executor import blocks_of, plan_job, run_job
from chunkjac._planner import Given, GivenToJacobian, GivenToPlan, Plan, job_of, read_options
from chunkjac._sinks import Block
from chunkjac._store import open_store

if TYPE_CHECKING:
    from typing_extensions import Unpack


@shows
def jacobian(func: Callable[..., Any], *args: Any, **given: Unpack[GivenToJacobian]) -> Any:
    """Compute the Jacobian of ``func`` at ``args`` under a memory budget.

    Args:
        func: Takes ``args``, returns a tensor or a tree (tuples, lists, dicts) of tensors.
        *args: The point. The arguments that ``argnums`` names are tensors of real
            floating-point numbers, or trees of them; others may be anything.

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
    job = job_of(func, args, read_options("jacobian", given, GivenToJacobian))
    if job.out.is_repeatable:  # its blocks are to be the same whenever they are computed: planned first
        return plan_job(job).run(return_report=job.return_report)
    return run_job(job).deliver(job)


@shows
def plan(func: Callable[..., Any], *args: Any, **given: Unpack[GivenToPlan]) -> Plan:
    """Plan a Jacobian without computing it.

    The function runs on fake tensors, which have shapes and no values. A function that needs
    values (``.item()``, branches on them, NumPy) runs for real instead, on a few directions.
    ``mode="auto"`` goes by the numbers of rows and columns, since fakes take no time, and nothing is
    compiled before the first ``run``.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.

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
    job = job_of(func, args, read_options("plan", given, GivenToPlan))
    return plan_job(job)


@shows
def blocks(func: Callable[..., Any], *args: Any, **given: Unpack[Given]) -> Iterator[Block]:
    """Return the blocks of a Jacobian, one by one; the whole is never held.

    A block is computed when it is asked for. Whoever stops asking has everything put back as it was, and no
    more is computed.

    Args:
        func: As for :func:`jacobian`.
        *args: See there.

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
    job = job_of(func, args, read_options("blocks", given, Given))
    return blocks_of(job)


def open_file(path: str | os.PathLike[str], *, check: bool = True) -> Any:
    """Return a Jacobian that was written to a path, in memory that is mapped to the files.

    Files are data: nothing that they name is imported or called, and no link is followed.

    Args:
        path: What was given as ``out``: a ``.npy`` file, or a folder.
        check: Whether all values are read once, and compared with their checksums; ``False`` reads nothing yet.

    Returns:
        The Jacobian in torch.func's tree; named tuples are tuples, and containers of your own classes lists. What is
        written to its tensors stays in memory, the files never change.
        Of a ``.zarr`` folder, Zarr arrays that can be read only: matrices of flattened outputs and inputs.

    Raises:
        StoreError: Nothing was written there, or not all yet, or it has changed since: the message says which rows or
            columns are missing, or damaged.

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
    return open_store(read_path("path", path), check=read_bool("check", check))
