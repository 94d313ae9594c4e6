"""A Jacobian in files, read: as tensors in mapped memory or as Zarr arrays, and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch.utils._pytree import TreeSpec, tree_unflatten

from chunkjac._errors import StoreError
from chunkjac._store.journal import append, drop_torn_line, lines_of
from chunkjac._store.layout import FileLayout
from chunkjac._store.lock import locked_journal
from chunkjac._store.stored_plan import StoredPlan
from chunkjac._store.target import Target
from chunkjac._store.trees import rebuilt
from chunkjac._store.values import all_values, read_block


def open_store(
    path: str | os.PathLike[str], specs: tuple[TreeSpec, TreeSpec] | None = None, *, check: bool = True
) -> Any:
    """Return a Jacobian in torch.func's tree, in mapped memory, or as Zarr arrays.

    Args:
        path: Where it was written.
        specs: The trees of outputs and inputs, if they are known.
        check: Whether all values are read once and compared with their checksums.

    Raises:
        StoreError: There is none, or it is not finished, or not as it was written.
    """
    target = Target.of(path)
    layout, finished = _plan_of(target).layout, target.finished()
    _refuse(path, layout, "is not finished", "are missing", list(layout.partition.missing(finished)))
    files = all_values(target, layout)
    opened = [[file.opened() for file in row] for row in files]
    if check:
        damaged = _damaged(target, layout, finished)
        _refuse(path, layout, "is damaged", "are not as they were written", damaged)
    rows = opened if layout.by_rows else [[*row] for row in zip(*opened)]
    if specs is None:
        outside, inside = layout.trees
        return rebuilt(outside, [rebuilt(inside, row) for row in rows])
    return tree_unflatten([tree_unflatten(row, specs[1]) for row in rows], specs[0])


def check(path: str | os.PathLike[str]) -> tuple[list[slice], list[slice], int]:
    """Compare all finished blocks with their checksums; those that differ count as unfinished from now on.

    Returns:
        The directions of the blocks that differ, of those that are not finished, and how many there are in all.

    Raises:
        StoreError: There is no Jacobian in files, another process writes to it, or a file has another header.
    """
    target = Target.of(path)
    plan, finished = _plan_of(target), target.finished()
    if finished:  # all files were made before
        for file in (file for row in all_values(target, plan.layout) for file in row):
            file.is_whole()
    partition, damaged = plan.layout.partition, _damaged(target, plan.layout, finished)
    if damaged:
        with locked_journal(target) as journal:
            drop_torn_line(journal, target.journal_path.read_bytes())
            append(journal, lines_of(dict.fromkeys(damaged), plan.tie))
    unfinished = partition.missing(finished)
    return [*map(partition.block, damaged)], [*map(partition.block, unfinished)], partition.n_blocks


def _plan_of(target: Target) -> StoredPlan:
    """Return the plan that is there."""
    plan = target.written_plan
    if plan is None:
        raise StoreError(f"there is no {target.told(target.plan_path)!r}: chunkjac has not written {target.given!r}.")
    return plan


def _damaged(target: Target, layout: FileLayout, finished: dict[int, tuple[int, ...]]) -> list[int]:
    """Return the numbers of finished blocks whose bytes are not those that were written."""
    files, parts = all_values(target, layout), {number: layout.partition.part(number) for number in sorted(finished)}
    return [n for n, part in parts.items() if read_block(files[part.leaf], part.elements, finished[n]) is None]


def _refuse(path: str | os.PathLike[str], layout: FileLayout, how: str, what: str, numbers: Sequence[int]) -> None:
    """Refuse files of which some blocks cannot be used.

    Raises:
        StoreError: There are such blocks.
    """
    if numbers:
        raise StoreError(f"{str(path)!r} {how}: {layout.told(numbers)} {what}; give resume=True to compute them.")
