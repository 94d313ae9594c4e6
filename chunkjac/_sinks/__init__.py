"""Where blocks go, one a file."""

from chunkjac._sinks.argument import read_out
from chunkjac._sinks.block import Block
from chunkjac._sinks.cotangents import Cotangent, Grads, PulledBack
from chunkjac._sinks.destination import Allowance, Destination
from chunkjac._sinks.file import FileSink, buffer_bytes, witness_bytes
from chunkjac._sinks.given_tensors import GivenTensors
from chunkjac._sinks.reductions.diagonal import Diagonal
from chunkjac._sinks.reductions.gram import Gram, ManyTilesError
from chunkjac._sinks.reductions.norms import Norms, NormsOf
from chunkjac._sinks.reductions.reduction import sum_dtype
from chunkjac._sinks.reductions.tiles import mirrored
from chunkjac._sinks.sink import ResultSink, Sink
from chunkjac._sinks.stream import Stream
from chunkjac._sinks.tensor import NewTensor, TensorSink
