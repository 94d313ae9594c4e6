"""A Jacobian in files that is being written: made anew, or gone on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from chunkjac._errors import StoreError
from chunkjac._store.journal import append, drop_torn_line, lines_of, read_journal, sync_path
from chunkjac._store.layout import FileLayout
from chunkjac._store.lock import close_locked, open_locked
from chunkjac._store.target import FORMAT, Target
from chunkjac._store.values import Values, all_values
from chunkjac._store.writer import Piece, Writer


class Store:
    """Take blocks, and know which are finished.

    Space is reserved when the files are made, so a disk that is too full is an error before any work. Files that
    were made here go again if no block gets finished.

    Args:
        target: Where the files are.
        layout: How the Jacobian lies in them, if they are made anew.
        facts: What the values depend on; it must be the same where files are gone on with.

    Raises:
        StoreError: Another process writes there; what is there is something else, or another Jacobian (each fact
            is listed as it was and as it is); there is no room.
    """

    def __init__(self, target: Target, layout: FileLayout, facts: Mapping[str, Any]) -> None:
        self._target = target
        self._made: list[Path] = []
        self._closing = ExitStack()
        try:
            self._journal = self._opened_journal()
            self._layout, is_new = self._agreed(layout, facts)
            self._files = all_values(target, self._layout)
            text = target.journal_path.read_bytes()
            finished = read_journal(text)
            drop_torn_line(self._journal, text)
            if finished:
                finished = self._mended(finished)
            else:  # a run that was stopped may have made some of them, or parts of some
                for file, block_size in self._all_files():
                    file.make(block_size, self._made if is_new else None)
            self._missing = list(self._layout.partition.missing(finished))
            self._writer = self._started()
        except BaseException:
            self._abandon()
            raise

    def missing(self) -> list[slice]:
        """Return the directions that are to be computed, block by block."""
        return [self._layout.partition.block(number) for number in self._missing]

    def put(self, piece: Piece) -> None:
        """Take values; they are written while others are computed."""
        self._writer.put(piece)

    def raise_failure(self) -> None:
        """Raise what has kept values from being written.

        Raises:
            StoreError: The disk is full, for instance.
        """
        error = self._writer.error
        if isinstance(error, OSError):
            raise StoreError(
                f"{self._target.given!r} cannot be written: {error.strerror}; what is finished stays, resume=True "
                "goes on from there."
            ) from error
        if error is not None:
            raise error

    def close(self) -> None:
        """Bring what was taken to the disk, and let others write.

        An interrupt ends the wait for that, and nothing else.
        """
        self._writer.finish()

    def _opened_journal(self) -> int:
        """Return the journal's descriptor, locked; make it if it is not there."""
        file = None
        try:
            while file is None:  # another run may give up meanwhile, and remove what it has made
                file = self._locked_journal()
        except BlockingIOError as error:
            self._made = []
            raise StoreError(
                f"{self._target.given!r} is being written by another process; wait for it, or give another path."
            ) from error
        except OSError as error:
            journal = self._target.told(self._target.journal_path)
            raise StoreError(f"{journal!r} cannot be made: {error.strerror}; give another path.") from error
        self._closing.callback(close_locked, file)
        return file

    def _locked_journal(self) -> int | None:
        """Make the folder and the journal where they are missing, and lock it; nothing if it was removed meanwhile."""
        target, path = self._target, self._target.journal_path
        self._made = []
        if target.kind == "folder" and not target.path.exists():
            target.path.mkdir(exist_ok=True)
            self._made.append(target.path)
        try:
            file = open_locked(path, os.O_CREAT | os.O_EXCL)
            self._made.append(path)
        except FileExistsError:
            file = open_locked(path, os.O_CREAT)
        except FileNotFoundError:
            if target.kind != "folder":
                raise
            file = None
        return file

    def _agreed(self, layout: FileLayout, facts: Mapping[str, Any]) -> tuple[FileLayout, bool]:
        """Return how the Jacobian lies in its files, and whether that was written just now; read under the lock."""
        target = replace(self._target)
        plan = target.written_plan
        is_refused = not target.resume if plan is not None else target.path.is_file() or target.others()
        if is_refused:
            raise StoreError(f"out={target.given!r} exists; give resume=True to go on with it, or another path.")
        if plan is not None:
            return self._taken_over(plan, facts), False
        self._made += [target.draft_path, target.plan_path]
        with target.draft_path.open("w") as text:
            json.dump({"format": FORMAT, "facts": dict(facts), "layout": layout.to_dict()}, text, indent=1)
            text.flush()
            os.fsync(text.fileno())
        target.draft_path.replace(target.plan_path)
        sync_path(target.plan_path.parent)
        return layout, True

    def _taken_over(self, plan: Mapping[str, Any], facts: Mapping[str, Any]) -> FileLayout:
        """Return the layout of what is there, if that is the same Jacobian."""
        path = self._target.given
        known = plan["facts"]
        told = [
            f"{name} was {known.get(name)!r}, is {facts.get(name)!r}"
            for name in dict.fromkeys((*known, *facts))
            if known.get(name) != facts.get(name)
        ]
        if told:
            raise StoreError(
                f"resume=True found another Jacobian in {path!r}: {'; '.join(told)}. Give the same function and "
                "inputs, or another path."
            )
        return FileLayout.from_dict(plan["layout"])

    def _mended(self, finished: Mapping[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
        """Give files back what they have lost; return the blocks that are finished all the same."""
        short = [file for file in self._all_files() if not file[0].is_whole()]
        numbers = range(self._layout.partition.n_blocks)
        lost = [number for number in numbers if number in finished and not self._may_have(number)]
        if lost:  # told of first: the room that is taken for them is full of zeros
            append(self._journal, lines_of(dict.fromkeys(lost)))
        for file, block_size in short:
            file.make(block_size, None)
        return {number: sums for number, sums in finished.items() if number not in lost}

    def _may_have(self, number: int) -> bool:
        """Tell whether all of a finished block may still be there."""
        part = self._layout.partition.part(number)
        return all(file.has(part.elements) for file in self._files[part.leaf])

    def _started(self) -> Writer:
        """Return what writes the missing blocks.

        Raises:
            StoreError: A file cannot be opened, or is not as it was made.
        """
        for file, _ in self._all_files():
            self._closing.callback(file.close)
            file.open()
        parts = {number: self._layout.partition.part(number) for number in self._missing}
        return Writer(parts, self._files, self._journal, self._end)

    def _all_files(self) -> Iterator[tuple[Values, int]]:
        """Yield what holds values, each with the size of its blocks."""
        for files, block_size in zip(self._files, self._layout.block_sizes):
            for file in files:
                yield file, block_size

    def _end(self) -> None:
        """Close all; files that were made here go if no block got finished."""
        if not self._missing or os.fstat(self._journal).st_size:
            self._made = []
        self._abandon()

    def _abandon(self) -> None:
        """Remove what was made here, as far as that can be done, and close all."""
        with self._closing:
            for path in reversed(self._made):
                with suppress(OSError):  # what has ended the run is what is to be told
                    self._target.discard(path)
            self._made = []
