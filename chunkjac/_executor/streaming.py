"""A job's blocks, one by one: each is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from chunkjac._executor.experience import Experience
from chunkjac._executor.result import Writing
from chunkjac._executor.run import writing_of
from chunkjac._planner import Job
from chunkjac._problem import LeftAsFound, RandomState
from chunkjac._sinks import Block, Stream


def blocks_of(job: Job) -> Iterator[Block]:
    """Yield the blocks of a job.

    Between two of them everything is as the caller has it: the random generators are those of the caller, and
    what the function changes is put back until the next one is asked for.
    """
    stream, found = Stream(), LeftAsFound(job.problem)
    experience = Experience.of(compiles=False, is_kept=False)
    writing = writing_of(replace(job, out=stream), None, experience, found)
    own: RandomState | None = None
    try:
        while True:
            with _callers_numbers(job):
                if own is not None:
                    own.restore()
                if not _advanced(writing):
                    return
                own = RandomState.now(job.problem.devices)
            assert stream.block is not None
            with found.back_in_place():
                yield stream.block
    finally:
        with _callers_numbers(job):
            writing.close()


@contextmanager
def _callers_numbers(job: Job) -> Iterator[None]:
    """Give the caller the random generators back as they are now."""
    callers = RandomState.now(job.problem.devices)
    try:
        yield
    finally:
        callers.restore()


@torch.inference_mode(False)
def _advanced(writing: Writing) -> bool:
    """Compute the next block; return whether there was one."""
    try:
        next(writing)
    except StopIteration:
        return False
    return True
