"""Jacobians in files, which outlive the process that writes them."""

from chunkjac._store._facts import described, facts_of
from chunkjac._store._layout import FileBlock, Layout
from chunkjac._store._opened import check, open_store
from chunkjac._store._removal import remove
from chunkjac._store._staging import N_BUFFERS, Staging
from chunkjac._store._store import Store
from chunkjac._store._target import Target, is_path
from chunkjac._store._writer import Piece

__all__ = [
    "N_BUFFERS",
    "FileBlock",
    "Layout",
    "Piece",
    "Staging",
    "Store",
    "Target",
    "check",
    "described",
    "facts_of",
    "is_path",
    "open_store",
    "remove",
]
