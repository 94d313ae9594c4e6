"""What every test starts from: its own seeded numbers, and an order that none of them needs."""

from __future__ import annotations

import gc
import random
from collections import Counter
from importlib.util import find_spec
from itertools import groupby

import numpy as np
import pytest
import torch

# The tutorial writes Zarr arrays, and there is no Zarr of today for Python 3.10.
collect_ignore = [] if find_spec("zarr") else ["docs/tutorial.md"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take the number that all randomness comes from."""
    group = parser.getgroup("chunkjac")
    group.addoption("--seed", type=int, default=0, metavar="N", help="seed each test with N (default: 0)")
    group.addoption("--shuffle", action="store_true", help="run the tests in an order drawn from the seed")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let hypothesis draw from the seed, too, before it reads its options."""
    if config.option.hypothesis_seed is None:
        config.option.hypothesis_seed = str(config.option.seed)


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to have the same numbers again."""
    order = " --shuffle" if config.option.shuffle else ""
    return f"numbers: those of --seed {config.option.seed}{order}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Thin the sweeps, before marks are looked at; shuffle all tests, across files, so that none leans on another."""
    for _, cases in groupby(items, key=lambda item: item.nodeid.partition("[")[0]):
        swept = [case for case in cases if isinstance(case, pytest.Function) and case.get_closest_marker("sweep")]
        kept = _each_value_once([case for case in swept if not case.get_closest_marker("long")])
        for case in swept:
            if case not in kept:
                case.add_marker("long")
    if config.option.shuffle:
        random.Random(config.option.seed).shuffle(items)


def _each_value_once(cases: list[pytest.Function]) -> list[pytest.Function]:
    """Return cases in which each value of each parameter occurs, values that occurred least being taken first."""
    values = {case: {(name, id(value)) for name, value in case.callspec.params.items()} for case in cases}
    seen: Counter[tuple[str, int]] = Counter()
    kept: list[pytest.Function] = []
    while seen.keys() < set().union(*values.values()):
        best = max(
            cases, key=lambda case: (len(values[case] - seen.keys()), -sum(seen[value] for value in values[case]))
        )
        kept.append(best)
        seen.update(values[best])
    return kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test the same numbers wherever, whenever and with whichever others it runs."""
    seed = item.config.option.seed
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pytest_collection_finish() -> None:
    """Let collections of garbage, which many tests ask for, pass over the million objects of torch's modules."""
    gc.collect()
    gc.freeze()
