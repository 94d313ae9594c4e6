"""A job run to its result: the loop, and what surrounds it."""

from chunkjac._executor.planning import plan_job
from chunkjac._executor.result import Result
from chunkjac._executor.run import run_job
from chunkjac._executor.streaming import blocks_of
