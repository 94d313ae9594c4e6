"""A Jacobian in files that is being written: made anew, or gone on with."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from chunkjac._chunker import Segment
from chunkjac._errors import StoreError
from chunkjac._store.files import read_own
from chunkjac._store.journal import append, drop_torn_line, lines_of
from chunkjac._store.layout import FileLayout
from chunkjac._store.lock import close_locked, open_locked
from chunkjac._store.stored_plan import StoredPlan
from chunkjac._store.target import Target
from chunkjac._store.values import Values, all_values, read_block
from chunkjac._store.writer import Piece, Writer


class Store:
    """Take blocks, and know which are finished.

    What is there is only read until :meth:`begin`. Space is reserved when the files are made, so a disk that is too
    full is an error before any work. Files that were made here go again if no block gets finished.

    Args:
        target: Where the files are.
        plan: What is computed, and how it lies in them if they are made anew.

    Attributes:
        given: The path as the user gave it.

    Raises:
        StoreError: Another process writes there; what is there is something else, or another Jacobian (each fact
            is listed as it was and as it is).
    """

    def __init__(self, target: Target, plan: StoredPlan) -> None:
        self.given = target.given
        self._target = target
        self._made: list[Path] = []
        self._closing = ExitStack()
        try:
            self._journal = self._opened_journal()
            self._plan, self._is_new = self._agreed(plan)
            self._files = all_values(target, self.layout)
            self._finished = replace(target).finished()
        except BaseException:
            self.abandon()
            raise

    @property
    def layout(self) -> FileLayout:
        """Return how the Jacobian lies in its files."""
        return self._plan.layout

    def finished(self, numbers: Collection[int] | None = None) -> Iterator[tuple[int, Segment, list[Any]]]:
        """Yield blocks that are finished: number, directions, and their values in each file.

        One that is not as it was written is to be computed again.

        Args:
            numbers: Which of them; all for ``None``.

        Raises:
            StoreError: A file is something else than what was made.
        """
        for file in self._all_files() if self._finished else ():
            file.is_whole()
        for number in sorted(self._finished if numbers is None else numbers):
            part = self.layout.partition.part(number)
            values = read_block(self._files[part.leaf], part.elements, self._finished[number])
            if values is not None:
                yield number, part, values

    def begin(self, finished: Sequence[int]) -> None:
        """Make ready for writing.

        Args:
            finished: The numbers of the blocks that stay.

        Raises:
            StoreError: There is no room, or a file cannot be opened or is not as it was made.
        """
        try:
            lost = self._finished.keys() - {*finished}
            drop_torn_line(self._journal, read_own(self._target.journal_path))
            if lost:  # told of first: the room that is taken for them is full of zeros
                append(self._journal, lines_of(dict.fromkeys(sorted(lost)), self._plan.tie))
            for file in self._all_files():  # a run that was stopped may have made some of them, or parts of some
                if not file.is_whole():
                    file.make(self._made if self._is_new else None)
            self._missing = list(self.layout.partition.missing({*finished}))
            for file in self._all_files():
                self._closing.callback(file.close)
                file.open()
            parts = {number: self.layout.partition.part(number) for number in self._missing}
            self._writer = Writer(parts, self._files, self._journal, self._plan.tie, self._end)
        except BaseException:
            self.abandon()
            raise

    def missing(self) -> list[slice]:
        """Return the directions that are to be computed, block by block."""
        return [self.layout.partition.block(number) for number in self._missing]

    def begin_again(self) -> None:
        """Take back what was written here: it is missing again."""
        self._writer.take_back()

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

    def _agreed(self, plan: StoredPlan) -> tuple[StoredPlan, bool]:
        """Return the plan that holds, and whether it was written just now; read under the lock."""
        target = replace(self._target)
        known = target.written_plan
        if known is not None:
            differences = known.differences(plan)
            is_refused = not target.resume
        else:
            differences, others = [], target.others()
            is_refused = target.path.is_file() or bool(others)
        if is_refused:
            raise StoreError(f"out={target.given!r} exists; give resume=True to go on with it, or another path.")
        if differences:
            raise StoreError(
                f"resume=True found another Jacobian in {target.given!r}: {'; '.join(differences)}. Give the same "
                "function and inputs, or another path."
            )
        if known is not None:
            return known, False
        try:
            plan.write(target.plan_path, target.draft_path)
        except OSError as error:
            draft = target.told(target.draft_path)
            raise StoreError(f"{draft!r} cannot be made: {error.strerror}; give another path.") from error
        self._made.append(target.plan_path)
        return plan, True

    def _all_files(self) -> Iterator[Values]:
        """Yield what holds values."""
        return (file for files in self._files for file in files)

    def _end(self) -> None:
        """Close all; files that were made here go if no block got finished."""
        if not self._missing or os.fstat(self._journal).st_size:
            self._made = []
        self.abandon()

    def abandon(self) -> None:
        """Remove what was made here, as far as that can be done, and close all."""
        with self._closing:
            for path in reversed(self._made):
                with suppress(OSError):  # what has ended the run is what is to be told
                    self._target.discard(path)
            self._made = []
