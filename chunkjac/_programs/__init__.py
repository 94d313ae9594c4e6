"""A chunk's step recorded, made simpler, and replayed."""

from chunkjac._programs.derivative_program import DerivativeProgram
from chunkjac._programs.difference_program import DifferenceProgram
from chunkjac._programs.graph.saved import Autograd
from chunkjac._programs.plain_evaluation import PlainEvaluation
from chunkjac._programs.recording import PlainDerivative
from chunkjac._programs.records import ModeRecord, Records, SeenByDifferences
from chunkjac._programs.usage import Usage
