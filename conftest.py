"""What every test starts from: its own seeded numbers, and an order that none of them needs."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle all tests, across files, so that none leans on another; the same way in every process."""
    if config.option.shuffle:
        random.Random(config.option.seed).shuffle(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test the same numbers wherever, whenever and with whichever others it runs."""
    seed = item.config.option.seed
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
