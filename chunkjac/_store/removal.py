"""A Jacobian in files, removed: what chunkjac has made, and nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace

from chunkjac._errors import StoreError
from chunkjac._store.lock import locked_journal
from chunkjac._store.target import Target


def remove(path: str | os.PathLike[str]) -> None:
    """Remove what was written to a path, if anything was; a folder only where all that is in it was made by chunkjac.

    Raises:
        StoreError: There is something else, the plan cannot be read, or another process writes there.
    """
    target = Target.of(path)
    if target.is_of_another_kind:
        return  # no run takes it either
    is_there = target.path.exists()
    others = target.others()
    if others:
        raise StoreError(f"{target.told(others[0])!r} was not made by chunkjac; move it away, or give another path.")
    if is_there or any(file.exists() for file in target.files):
        _remove_files(target)
    if target.kind == "folder" and is_there:
        with suppress(OSError):  # somebody has put something into it
            target.path.rmdir()


def _remove_files(target: Target) -> None:
    """Remove all files of a run; whatever ends that, it can be done again."""
    with locked_journal(target, os.O_CREAT) as journal:
        if replace(target).written_plan != target.written_plan:
            raise StoreError(f"{target.given!r} was written by another process just now.")
        try:
            os.ftruncate(journal, 0)  # no block passes for finished from now on
            for file in target.files:
                target.discard(file)
        except OSError as error:
            raise StoreError(f"{target.given!r} cannot be removed: {error.strerror}.") from error
