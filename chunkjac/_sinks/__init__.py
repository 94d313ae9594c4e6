"""The sinks: where blocks go, one a file."""

from chunkjac._sinks._tensor import TensorSink, check_out

__all__ = ["TensorSink", "check_out"]
