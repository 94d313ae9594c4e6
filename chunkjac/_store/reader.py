"""A Jacobian in files, read: as tensors in mapped memory or as Zarr arrays, and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils._pytree import TreeSpec, tree_unflatten, treespec_loads

from chunkjac._errors import StoreError
from chunkjac._store.journal import append, drop_torn_line, lines_of, read_journal
from chunkjac._store.layout import FileLayout
from chunkjac._store.lock import locked_journal
from chunkjac._store.target import Target
from chunkjac._store.values import values_at


@dataclass(frozen=True, slots=True)
class _Found:
    """Hold what is in files."""

    target: Target
    layout: FileLayout
    finished: dict[int, tuple[int, ...]]


def open_store(path: str | os.PathLike[str], specs: tuple[TreeSpec, TreeSpec] | None = None) -> Any:
    """Return a Jacobian in torch.func's tree, in mapped memory, or as Zarr arrays.

    Args:
        path: Where it was written.
        specs: The trees of outputs and inputs, if they are known.

    Raises:
        StoreError: There is none, or it is not finished.
    """
    found = _find(path)
    partition = found.layout.partition
    missing = [partition.block(number) for number in partition.missing(found.finished)]
    if missing:
        raise StoreError(f"{str(path)!r} is not finished: {_told(found.layout, missing)}; give resume=True to go on.")
    layout = found.layout
    outside, inside = specs or (_spec_of(text) for text in layout.trees)
    rows = []
    for output in range(layout.n_outputs):
        parts = [layout.part(output, x) for x in range(layout.n_inputs)]
        row = [values_at(found.target, part).opened() for part in parts]
        rows.append(row if inside is None else tree_unflatten(row, inside))
    return rows if outside is None else tree_unflatten(rows, outside)


def check(path: str | os.PathLike[str]) -> tuple[list[slice], list[slice], int]:
    """Compare all finished blocks with their checksums; those that differ count as unfinished from now on.

    Returns:
        The directions of the blocks that differ, of those that are not finished, and how many there are in all.

    Raises:
        StoreError: There is no Jacobian in files, another process writes to it, or a file has another header.
    """
    found = _find(path)
    if found.finished:  # all files were made before
        for part in found.layout.parts:
            values_at(found.target, part).is_whole()
    partition = found.layout.partition
    unfinished = list(partition.missing(found.finished))
    damaged = [number for number in partition.missing({*unfinished}) if not _is_whole(found, number)]
    if damaged:
        _strike(found.target, damaged)
    return [*map(partition.block, damaged)], [*map(partition.block, unfinished)], partition.n_blocks


def _spec_of(text: str) -> TreeSpec | None:
    """Return a tree that was written as text; ``None`` where it could not be, or cannot be read here."""
    try:
        return treespec_loads(text) if text else None
    except Exception:  # of classes that are not registered in this process
        return None


def _find(path: str | os.PathLike[str]) -> _Found:
    """Read the plan and the journal."""
    target = Target.of(path)
    if target.written_plan is None:
        raise StoreError(f"there is no {target.told(target.plan_path)!r}: chunkjac has not written {str(path)!r}.")
    try:
        finished = read_journal(target.journal_path.read_bytes())
    except OSError as error:
        raise StoreError(
            f"the journal {target.told(target.journal_path)!r} cannot be read: {error.strerror}."
        ) from error
    return _Found(target, FileLayout.from_dict(target.written_plan["layout"]), finished)


def _told(layout: FileLayout, missing: Sequence[slice]) -> str:
    """Say which directions are missing."""
    spans: list[slice] = []
    for part in missing:
        start = spans.pop().start if spans and spans[-1].stop == part.start else part.start
        spans.append(slice(start, part.stop))
    shown = ", ".join(f"{span.start}:{span.stop}" for span in spans[:5]) + (", ..." if len(spans) > 5 else "")
    return f"{'rows' if layout.by_rows else 'columns'} {shown} of {sum(layout.sizes)} are missing"


def _is_whole(found: _Found, number: int) -> bool:
    """Tell whether a block's bytes are those that were written."""
    sums, block = found.finished[number], found.layout.partition.part(number)
    parts = found.layout.parts_of(block.leaf)
    return len(sums) == len(parts) and all(
        values_at(found.target, part).sum_of(block.elements) == known for part, known in zip(parts, sums)
    )


def _strike(target: Target, numbers: Sequence[int]) -> None:
    """Take blocks back in the journal."""
    with locked_journal(target) as file:
        drop_torn_line(file, target.journal_path.read_bytes())
        append(file, lines_of(dict.fromkeys(numbers)))
