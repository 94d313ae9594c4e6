"""The sinks: where blocks go, one a file."""

from chunkjac._sinks._pulled_back import PulledBack
from chunkjac._sinks._tensor import TensorSink, check_out

__all__ = ["PulledBack", "TensorSink", "check_out"]
