"""Where blocks go, one a file."""

from chunkjac._sinks._callback import CallbackSink
from chunkjac._sinks._diagonal import Diagonal
from chunkjac._sinks._file import FileSink
from chunkjac._sinks._gram import Gram, ManyTilesError, mirrored
from chunkjac._sinks._norms import NormsOf
from chunkjac._sinks._out import ResultSink, check_fits, check_with, is_callback, read_out, sink_for, sink_name
from chunkjac._sinks._pulled_back import PulledBack
from chunkjac._sinks._reduction import Reduction, sum_dtype
from chunkjac._sinks._stream import Stream
from chunkjac._sinks._tensor import TensorSink

__all__ = [
    "CallbackSink",
    "Diagonal",
    "FileSink",
    "Gram",
    "ManyTilesError",
    "NormsOf",
    "PulledBack",
    "Reduction",
    "ResultSink",
    "Stream",
    "TensorSink",
    "check_fits",
    "check_with",
    "is_callback",
    "mirrored",
    "read_out",
    "sink_for",
    "sink_name",
    "sum_dtype",
]
