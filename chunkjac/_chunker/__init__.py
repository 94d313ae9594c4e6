"""How large a chunk is, which directions it has, and their seeds."""

from chunkjac._chunker.copies import BatchLayout, PerturbedCopies, PerturbedPoint
from chunkjac._chunker.cost import TIGHT_PROBES, Cost, even_chunk, fit_chunks
from chunkjac._chunker.counting import TILE_SHARES, ChunkRoom, Chunks, Counting, Foreseen, tile_bytes
from chunkjac._chunker.directions import Directions, ElementDirections
from chunkjac._chunker.knee import Knee
from chunkjac._chunker.limits import Limits
from chunkjac._chunker.pacer import Pacer
from chunkjac._chunker.partition import Partition
from chunkjac._chunker.seeds import Seeds
from chunkjac._chunker.slices import Segment
from chunkjac._chunker.turns import Learnt, Measured, Turn
