"""How a block is made."""

from chunkjac._modes.derivatives.forward import Forward
from chunkjac._modes.derivatives.gradient import Gradient
from chunkjac._modes.derivatives.ladder import FAKE_ONLY, is_final
from chunkjac._modes.derivatives.reverse import Reverse
from chunkjac._modes.differences.bounds import Bounds, read_bounds
from chunkjac._modes.differences.finite_difference import FiniteDifference
from chunkjac._modes.differences.schemes import SCHEME_NAMES
from chunkjac._modes.differences.steps import Step, read_step
from chunkjac._modes.mode import (
    MODES,
    Mode,
    ModeSummary,
    OtherWayError,
    block_leaves,
    is_empty,
    least_direction_bytes,
    result_bytes,
)
from chunkjac._modes.referee import random_tangent
from chunkjac._modes.referees.decision import Verdict, check_columns, check_mode, check_twice
from chunkjac._modes.referees.trust import means_the_same
