"""A job's blocks, one by one: each is computed when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from chunkjac._executor.experience import Experience
from chunkjac._executor.result import Writing
from chunkjac._executor.run import writing_of
from chunkjac._planner import Job
from chunkjac._problem import LeftAsFound
from chunkjac._sinks import Block, Stream


def blocks_of(job: Job) -> Iterator[Block]:
    """Yield the blocks of a job.

    Between two of them everything is as the caller has it: the random generators are those of the caller, and
    what the function changes is put back until the next one is asked for.
    """
    stream, found = Stream(), LeftAsFound(job.problem)
    experience = Experience.of(compiles=False, is_kept=False)
    writing = writing_of(replace(job, out=stream), None, experience, found)
    try:
        while True:
            if not _advanced(writing):
                return
            assert stream.block is not None
            with found.back_in_place():
                yield stream.block
    finally:
        writing.close()


@torch.inference_mode(False)
def _advanced(writing: Writing) -> bool:
    """Compute the next block; return whether there was one."""
    try:
        next(writing)
    except StopIteration:
        return False
    return True
