"""A chunk's step recorded, made simpler, and replayed."""

from chunkjac._programs.derivative_program import DerivativeProgram
from chunkjac._programs.difference_program import DifferenceProgram, PlainEvaluation
from chunkjac._programs.passes.first_layer import Copies
from chunkjac._programs.records import Programs, Record, Seen
from chunkjac._programs.replay.program import NotFiniteError

__all__ = [
    "Copies",
    "PlainEvaluation",
    "DifferenceProgram",
    "NotFiniteError",
    "Programs",
    "Record",
    "Seen",
    "DerivativeProgram",
]
