"""A chunk's step recorded, made simpler, and replayed."""

from chunkjac._programs.derivative_program import Shortcut
from chunkjac._programs.difference_program import Evaluation, Evaluations
from chunkjac._programs.passes.first_layer import Copies
from chunkjac._programs.records import Programs, Record, Seen
from chunkjac._programs.replay.program import NotFiniteError

__all__ = [
    "Copies",
    "Evaluation",
    "Evaluations",
    "NotFiniteError",
    "Programs",
    "Record",
    "Seen",
    "Shortcut",
]
