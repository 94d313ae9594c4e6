"""What is alive, what an operation will take, what a device can give."""

from chunkjac._memory.budget import Budget, devices_here, find_budget, find_device, free_memory, is_here
from chunkjac._memory.fakes import strict_fakes
from chunkjac._memory.foresight import LIFT_FRESH
from chunkjac._memory.gauge import Gauge
from chunkjac._memory.growth import Growth
from chunkjac._memory.heap import keep_freed_memory
from chunkjac._memory.out_of_memory import (
    OverBudget,
    drain_backward,
    first_line,
    is_out_of_memory,
    reclaim,
    text_of,
    without_frames,
)
from chunkjac._memory.tracker import LiveBytes
from chunkjac._memory.watcher import OperationMode, Watcher, are_limited, at_rest, at_the_bottom
