"""The sinks: where blocks go, one a file."""

from chunkjac._sinks._tensor import TensorSink, result_bytes

__all__ = ["TensorSink", "result_bytes"]
