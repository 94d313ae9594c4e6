"""Programs of tensor operations: what a mode does for each chunk, recorded once, made simpler, and replayed."""

from chunkjac._linear._evaluations import Evaluation, Evaluations
from chunkjac._linear._guard import Guard
from chunkjac._linear._nudged import Copies
from chunkjac._linear._program import NotFiniteError
from chunkjac._linear._programs import Programs, Record, Seen
from chunkjac._linear._recorder import NotLinearError
from chunkjac._linear._shortcut import Shortcut

__all__ = [
    "Copies",
    "Evaluation",
    "Evaluations",
    "Guard",
    "NotFiniteError",
    "NotLinearError",
    "Programs",
    "Record",
    "Seen",
    "Shortcut",
]
