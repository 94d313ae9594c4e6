"""Functions that users differentiate, each in three sizes.

On two cores, the best that torch.func can do takes 3 to 40 ms for small ones, 30 to 300 ms for those of medium size,
and about a second or more for large ones.
Half of them are real architectures of the library transformers; without it they are left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import zoo_of_libraries, zoo_of_ours
from benchmarks.architectures import Architecture

SIZES = ("small", "medium", "large")


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold what a function is, before it is built.

    Attributes:
        name: What it is.
        size: One of ``SIZES``.
        n_outputs: Rows of its Jacobian.
        n_inputs: Columns.
        make: Builds it.
        glance: Whether a quick run takes it.
    """

    name: str
    size: str
    n_outputs: int
    n_inputs: int
    make: Callable[[], Architecture]
    glance: bool

    @property
    def of_library(self) -> bool:
        """Tell whether it needs transformers."""
        return getattr(zoo_of_libraries, self.name, None) is not None

    def build(self, device: str = "cpu") -> Architecture:
        """Return the function and its point, the same in every process."""
        torch.manual_seed(0)
        return self.make().to(torch.device(device))


def functions(*sizes: str, quick: bool) -> Iterator[Entry]:
    """Yield the functions of some sizes, the short ones first; a quick run takes few of the large ones."""
    entries = [entry for entry in ENTRIES if entry.size in sizes and (entry.glance or not quick)]
    entries.sort(key=lambda entry: SIZES.index(entry.size))
    if not has_transformers() and any(entry.of_library for entry in entries):
        print("without the package transformers, the functions of libraries are left out")
        entries = [entry for entry in entries if not entry.of_library]
    yield from entries


def has_transformers() -> bool:
    """Tell whether the library's architectures can be built."""
    return importlib.util.find_spec("transformers") is not None


def _sizes(
    make: Callable[..., Architecture], *sizes: tuple[tuple[int, int], tuple], glance: bool = False
) -> list[Entry]:
    """Return a function in its sizes: the shape of the Jacobian, and what it is made with."""
    return [
        Entry(make.__name__, size, *shape, partial(make, *given), glance or size == "small")
        for size, (shape, given) in zip(SIZES, sizes, strict=True)
    ]


_ATTO = 40, (2, 2, 6, 2), 128  # ConvNeXt-Atto


def _entries() -> list[Entry]:
    ours, library = zoo_of_ours, zoo_of_libraries
    rows = [
        _sizes(library.gpt_2, ((64, 1024), (64, 2, 16)), ((128, 4096), (128, 3, 32)), ((256, 16384), (256, 4, 64))),
        _sizes(library.llama, ((64, 1024), (64, 2, 16)), ((128, 4096), (128, 3, 32)), ((256, 16384), (256, 4, 64))),
        _sizes(library.bert, ((128, 1024), (128, 2, 8)), ((128, 6144), (128, 4, 48)), ((256, 32768), (256, 4, 128))),
        _sizes(
            library.t5_encoder,
            ((128, 2048), (128, 2, 16)),
            ((128, 6144), (128, 4, 48)),
            ((256, 16384), (256, 4, 64)),
            glance=True,
        ),
        _sizes(library.mamba, ((64, 512), (64, 1, 8)), ((128, 2048), (128, 1, 16)), ((128, 4096), (128, 2, 32))),
        _sizes(library.vit, ((64, 768), (64, 2, 16)), ((128, 3072), (128, 4, 32)), ((192, 3072), (192, 6, 32))),
        _sizes(
            library.convnext,
            ((64, 3072), (16, (1, 1, 1), 32)),
            ((128, 12288), (32, (1, 1, 2), 64)),
            ((320, 49152), _ATTO),
        ),
        _sizes(
            library.resnet,
            ((64, 3072), (16, (1, 1, 1), 32)),
            ((256, 6912), (32, (1, 1, 1, 1), 48)),
            ((512, 12288), (64, (2, 2, 2, 2), 64)),
        ),
        _sizes(
            library.swin,
            ((64, 3072), (32, (1, 1), 32)),
            ((96, 12288), (48, (2, 2), 64)),
            ((192, 12288), (48, (2, 2, 2), 64)),
        ),
        _sizes(
            library.whisper_encoder,
            ((64, 1600), (64, 2, 20)),
            ((128, 4800), (128, 3, 60)),
            ((384, 8000), (384, 4, 100)),
        ),
        _sizes(
            ours.mlp,
            ((500, 1000), (1000, 2000, 500)),
            ((1000, 1000), (1000, 2000, 1000)),
            ((3000, 3000), (3000, 4096, 3000)),
        ),
        _sizes(ours.cnn, ((64, 3072), (16, 32, 64)), ((128, 12288), (24, 64, 128)), ((256, 27648), (32, 96, 256))),
        _sizes(ours.image_to_image, ((512, 3072), (32, 32)), ((1152, 6912), (32, 48)), ((2048, 12288), (32, 64))),
        _sizes(ours.u_net, ((256, 256), (16,)), ((1024, 1024), (32,)), ((2304, 2304), (48,))),
        _sizes(
            ours.transposed_decoder,
            ((3072, 64), (64, 32, 32)),
            ((12288, 128), (128, 64, 64)),
            ((49152, 256), (256, 64, 128)),
        ),
        _sizes(ours.lstm, ((64, 512), (16, 64, 32)), ((64, 1024), (16, 64, 64)), ((256, 6400), (64, 256, 100))),
        _sizes(
            ours.gru_cell_loop, ((64, 512), (16, 64, 32)), ((256, 3840), (64, 256, 60)), ((512, 9600), (64, 512, 150))
        ),
        _sizes(
            ours.neural_ode,
            ((256, 256), (256, 512, 10)),
            ((500, 500), (500, 1000, 10)),
            ((1000,) * 2, (1000, 1000, 20)),
            glance=True,
        ),
        _sizes(ours.fft_layer, ((512, 512), (16, 512)), ((1024, 1024), (16, 1024)), ((2048, 2048), (32, 2048))),
        _sizes(
            ours.graph_network,
            ((300, 1200), (150, 8, 32, 2)),
            ((800, 3200), (400, 8, 32, 2)),
            ((2000, 8000), (1000, 8, 64, 2)),
        ),
        _sizes(ours.lorenz_96, ((500, 500), (500, 5)), ((1500, 1500), (1500, 8)), ((4000, 4000), (4000, 10))),
        _sizes(ours.reaction_diffusion, ((512, 512), (16, 10)), ((1568, 1568), (28, 20)), ((4608, 4608), (48, 20))),
        _sizes(ours.parameters_of_a_cnn, ((80, 16330), (8,)), ((240, 16330), (24,)), ((640, 16330), (64,))),
    ]
    return [entry for sizes in rows for entry in sizes]


ENTRIES = tuple(_entries())
