"""Functions that users differentiate, each in a large and a small size where users have both.

Large: the best that torch.func can do takes about a second or more on two cores; small: 5 to 300 ms.
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

SIZES = ("small", "large")


@dataclass(frozen=True, slots=True)
class Entry:
    """Hold what a function is, before it is built.

    Attributes:
        name: What it is.
        size: ``"large"`` or ``"small"``.
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
    make: Callable[..., Architecture],
    *,
    large: tuple[tuple[int, int], tuple] | None = None,
    small: tuple[tuple[int, int], tuple] | None = None,
    glance: bool = False,
) -> list[Entry]:
    """Return a function in its sizes: the shape of the Jacobian, and what it is made with."""
    given = {"large": large, "small": small}
    return [
        Entry(make.__name__, size, *given[size][0], partial(make, *given[size][1]), glance or size == "small")
        for size in SIZES
        if given[size] is not None
    ]


_ATTO = 40, (2, 2, 6, 2), 128  # ConvNeXt-Atto


def _entries() -> list[Entry]:
    ours, library = zoo_of_ours, zoo_of_libraries
    rows = [
        _sizes(library.gpt_2, large=((256, 16384), (256, 4, 64)), small=((64, 1024), (64, 2, 16))),
        _sizes(library.llama, large=((256, 16384), (256, 4, 64)), small=((64, 1024), (64, 2, 16))),
        _sizes(library.bert, large=((256, 32768), (256, 4, 128)), small=((128, 1024), (128, 2, 8))),
        _sizes(library.t5_encoder, large=((256, 16384), (256, 4, 64)), small=((128, 2048), (128, 2, 16)), glance=True),
        _sizes(library.mamba, large=((128, 4096), (128, 2, 32)), small=((64, 512), (64, 1, 8))),
        _sizes(library.vit, large=((192, 3072), (192, 6, 32)), small=((64, 768), (64, 2, 16))),
        _sizes(library.convnext, large=((320, 49152), _ATTO), small=((64, 3072), (16, (1, 1, 1), 32))),
        _sizes(library.resnet, large=((512, 12288), (64, (2, 2, 2, 2), 64)), small=((64, 3072), (16, (1, 1, 1), 32))),
        _sizes(library.swin, large=((192, 12288), (48, (2, 2, 2), 64)), small=((64, 3072), (32, (1, 1), 32))),
        _sizes(library.whisper_encoder, large=((384, 8000), (384, 4, 100)), small=((64, 1600), (64, 2, 20))),
        _sizes(ours.mlp, large=((3000, 3000), (3000, 4096, 3000)), small=((500, 1000), (1000, 2000, 500))),
        _sizes(ours.cnn, large=((256, 27648), (32, 96, 256)), small=((64, 3072), (16, 32, 64))),
        _sizes(ours.image_to_image, large=((2048, 12288), (32, 64)), small=((512, 3072), (32, 32))),
        _sizes(ours.u_net, large=((2304, 2304), (48,)), small=((256, 256), (16,))),
        _sizes(ours.transposed_decoder, large=((49152, 256), (256, 64, 128)), small=((3072, 64), (64, 32, 32))),
        _sizes(ours.lstm, large=((256, 6400), (64, 256, 100)), small=((64, 512), (16, 64, 32))),
        _sizes(ours.gru_cell_loop, large=((512, 9600), (64, 512, 150)), small=((64, 512), (16, 64, 32))),
        _sizes(ours.neural_ode, large=((1000,) * 2, (1000, 1000, 20)), small=((256, 256), (256, 512, 10)), glance=True),
        _sizes(ours.fft_layer, large=((2048, 2048), (32, 2048)), small=((512, 512), (16, 512))),
        _sizes(ours.graph_network, large=((2000, 8000), (1000, 8, 64, 2)), small=((300, 1200), (150, 8, 32, 2))),
        _sizes(ours.lorenz_96, large=((4000, 4000), (4000, 10)), small=((500, 500), (500, 5))),
        _sizes(ours.reaction_diffusion, large=((4608, 4608), (48, 20)), small=((512, 512), (16, 10))),
        _sizes(ours.parameters_of_a_cnn, large=((640, 16330), (64,)), small=((80, 16330), (8,))),
    ]  # fmt: skip
    return [entry for sizes in rows for entry in sizes]


ENTRIES = tuple(_entries())
