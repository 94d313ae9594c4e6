"""The modes: ways to make blocks, one a file."""

from chunkjac._modes._finite_difference import FiniteDifference
from chunkjac._modes._forward import Forward
from chunkjac._modes._ladder import FAKE_ONLY, is_final
from chunkjac._modes._mode import (
    Block,
    Facts,
    Mode,
    OtherWayError,
    block_leaves,
    is_empty,
    least_direction_bytes,
    n_directions,
    result_bytes,
    seed_leaves,
)
from chunkjac._modes._precision import PrecisionSeen
from chunkjac._modes._pullbacks import RowByRow
from chunkjac._modes._referee import central_difference, random_tangent
from chunkjac._modes._reverse import Reverse

__all__ = [
    "FAKE_ONLY",
    "Block",
    "Facts",
    "FiniteDifference",
    "Forward",
    "Mode",
    "OtherWayError",
    "PrecisionSeen",
    "Reverse",
    "RowByRow",
    "block_leaves",
    "central_difference",
    "is_empty",
    "is_final",
    "least_direction_bytes",
    "n_directions",
    "random_tangent",
    "result_bytes",
    "seed_leaves",
]
