"""The sinks: where blocks go, one a file."""

from chunkjac._sinks._tensor import TensorSink

__all__ = ["TensorSink"]
