"""What depends on the seeds, recorded with the values of now that it uses."""

from __future__ import annotations

from typing import Any

import torch

from chunkjac._programs.graph.recorder import NotLinearError, Recorder, memory_or_none
from chunkjac._tensors import tensors_among


class StepRecorder(Recorder):
    """Record what depends on the seeds only: what else it uses is a constant, with the value that it has now.

    So values may be read of all that does not depend on seeds, and decide what is done: the recording is of now, and
    is made anew in each run.
    """

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Record an operation on what depends on the seeds; run any other."""
        tensors = tensors_among((*args, *kwargs.values()))
        if any(tensor in self.node_of for tensor in tensors):
            return super().run(func, args, kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotLinearError(f"it draws random numbers ({func})")
        if torch.Tag.inplace_view in func.tags:
            self._part_with(tensors)
        elif func._schema.is_mutable and not self._held.isdisjoint(map(memory_or_none, tensors)):
            raise NotLinearError(f"it writes to what a derivative uses ({func})")
        return func(*args, **kwargs)

    def _part_with(self, tensors: list[torch.Tensor]) -> None:
        """Keep constants as they are, whose tensors get another shape; they are others from then on."""
        for tensor in tensors:
            node = self._constant_of.pop(id(tensor), None)
            if node is not None:
                self._constants[node] = tensor.detach()
                self._parted.append(tensor)  # so that its id stays its own
