"""Where blocks go, one a file."""

from chunkjac._sinks.block import Block
from chunkjac._sinks.cotangents import PulledBack
from chunkjac._sinks.destination import ResultSink, check_fits, check_with, read_out, sink_for, sink_name
from chunkjac._sinks.reductions.diagonal import Diagonal
from chunkjac._sinks.reductions.gram import Gram, ManyTilesError
from chunkjac._sinks.reductions.norms import Norms, NormsOf
from chunkjac._sinks.reductions.reduction import Reduction, sum_dtype
from chunkjac._sinks.reductions.tiles import mirrored
from chunkjac._sinks.sink import Sink
from chunkjac._sinks.stream import Stream
from chunkjac._sinks.tensor import TensorSink
