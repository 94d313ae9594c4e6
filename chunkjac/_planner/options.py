"""The one list of options: what a caller may write, and the same with defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from chunkjac._planner.progress import Progress


class Given(TypedDict, total=False):
    """Hold what every call takes; :class:`Options` says what each is."""

    argnums: int | tuple[int, ...]
    mode: str
    scheme: str
    step: Any
    batching: str | int
    bounds: Any
    max_memory: int | str | None
    chunk_size: int | None
    randomness: str
    progress: bool | Callable[[Progress], object] | None


class GivenOnce(Given, total=False):
    """Hold what calls take that run once, and so have a report."""

    return_report: bool


class GivenForAll(Given, total=False):
    """Hold what calls take that give a whole Jacobian."""

    has_aux: bool
    out: Any
    resume: bool
    create_graph: bool
    verify: int | str
    compile: bool


class GivenToJacobian(GivenForAll, GivenOnce, total=False):
    """Hold what :func:`chunkjac.jacobian` takes."""


class GivenToPlan(GivenForAll, total=False):
    """Hold what :func:`chunkjac.plan` takes."""

    device: torch.device | str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Hold all options of a call, in the order in which signatures show them.

    Each is described here, and nowhere else: docstrings of what users call are completed from this one.

    Attributes:
        argnums: The argument to differentiate with respect to, or a tuple of several.
        has_aux: Whether ``func`` returns ``(output, aux)``, of which ``aux`` is handed on.
        mode: ``"reverse"`` makes rows, ``"forward"`` columns, ``"finite-difference"`` columns
            without derivatives, ``"auto"`` takes the one with the least work.
        scheme: For finite differences: ``"forward"``, ``"backward"`` (errors of the order of the step),
            ``"central"`` (of its square), ``"central4"`` (of its fourth power, for four evaluations),
            ``"richardson"`` (extrapolated, eight) or ``"complex"`` (exact to rounding, one, for
            functions that are analytic and take complex numbers).
        step: For finite differences: ``None`` finds it from dtype, scheme and ``abs(x)``;
            or a float, or tensors shaped like the inputs. An error in other modes.
        batching: For finite differences, how ``func`` takes several points at once: ``"native"``
            along a leading dimension of inputs and outputs, an int along that one, ``"vmap"``,
            ``"loop"`` one after the other. ``"auto"`` takes a native batch if its rows are seen
            to be independent, else ``vmap``, else the loop. An error in other modes.
        bounds: For finite differences: ``(low, high)``, floats or tensors shaped like the inputs.
            ``func`` is never evaluated outside of them. An error in other modes.
        max_memory: The most bytes that tensors may take beside those alive at the call:
            an int, ``"4GiB"``, ``"500MB"``, or ``"80%"`` of what is free now. ``None`` takes the setting,
            and without one a part of what is free.
        chunk_size: Exactly this many directions at a time; ``None`` plans it.
        out: Tensors to write into, in the result's tree; they do not count. Or a callable that is given
            each finished :class:`chunkjac.Block`, in order: the Jacobian is never held, and ``None``
            stands in its place. What the callable makes does not count; what it raises comes through. Or an object
            whose ``write`` is called so. Or a device, ``"cpu"`` for instance, where the result is allocated. Or a path:
            a ``.npy`` file for one output and one input, a folder with one for each pair, or a ``.zarr`` folder in
            Zarr's format (extra ``zarr``). Blocks go to disk while the next ones are computed, each is noted once it is
            there, and what is returned is mapped to the files, or consists of Zarr arrays.
        resume: With a path: go on with what is there, in chunks of the size that was planned first; what is finished is
            not computed again. A random combination of it must be what ``func`` gives as it is now, in the same mode.
        randomness: What ``func`` may draw where it is evaluated several times (forward mode, finite
            differences): ``"error"`` refuses random numbers, ``"same"`` gives every evaluation the
            same, ``"different"`` its own to each direction (forward mode only). Reverse mode
            evaluates once.
        create_graph: Whether the Jacobian can be differentiated again, by the inputs and by what
            ``func`` captured. No graph of it is kept: the backward pass computes it anew, a chunk
            at a time.
        verify: In how many random directions to check the finished Jacobian: against finite differences, and where
            they know nothing against another mode. Where it is wrong, ``mode="auto"`` goes on in another mode and
            warns; with a mode that was asked for, that is an error. ``"auto"`` checks one direction, before the first
            block, wherever ``func`` holds an operation that is not known to be differentiated rightly.
            ``0`` checks nothing. The report's ``verified`` tells by what.
        compile: Whether a chunk's step goes through ``torch.compile`` (10-60 s, once for a plan), and through a CUDA
            graph on CUDA. It is kept where a chunk of the job takes less time so; the report's ``reasons`` tell. It
            needs a compiler (a C++ one on the CPU, Triton on CUDA): without one, a
            :class:`chunkjac.RungWarning` says so, and the job runs uncompiled.
        progress: A bool, or a callable that gets a :class:`chunkjac.Progress` after each chunk. ``None`` takes the
            setting, and without one tells whether stderr is a terminal.
        return_report: Also return the :class:`chunkjac.Report`.
        device: Plan for this device; it need not be here, and ``max_memory`` is in bytes then. The
            function runs on fake tensors where its inputs are; ``run`` takes them on the device.
    """

    argnums: int | tuple[int, ...] = 0
    has_aux: bool = False
    mode: str = "auto"
    scheme: str = "central"
    step: Any = None
    batching: str | int = "auto"
    bounds: Any = None
    max_memory: int | str | None = None
    chunk_size: int | None = None
    out: Any = None
    resume: bool = False
    randomness: str = "error"
    create_graph: bool = False
    verify: int | str = "auto"
    compile: bool = False
    progress: bool | Callable[[Progress], object] | None = None
    return_report: bool = False
    device: torch.device | str | None = None

    @property
    def n_checks(self) -> int:
        """Return in how many directions the finished Jacobian is checked whatever it is made of."""
        return self.verify if isinstance(self.verify, int) else 0

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what else than function, inputs and mode the values depend on."""
        return {"scheme": self.scheme, "step": self.step, "batching": self.batching, "bounds": self.bounds}
