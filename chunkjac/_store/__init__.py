"""Jacobians in files, which outlive the process."""

from chunkjac._store.layout import FileLayout
from chunkjac._store.reader import check, open_store
from chunkjac._store.removal import remove
from chunkjac._store.staging import N_BUFFERS, Staging
from chunkjac._store.store import Store
from chunkjac._store.stored_plan import StoredPlan
from chunkjac._store.target import Target
from chunkjac._store.writer import Piece
