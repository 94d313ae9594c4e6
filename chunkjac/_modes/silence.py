"""Silence about what is tried and may fail."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# torch logs an operation that fake tensors cannot run as an error with its traceback, which holds
# the tensors (torch 2.13). Here it is an answer.
_LOGGER = logging.getLogger("torch._subclasses.fake_tensor")

# Python's warning filters are the process's: two threads that set them aside must not cross.
_FILTERS = threading.RLock()


@contextmanager
def quiet_fakes() -> Iterator[None]:
    """Keep what fails on fake tensors in this thread out of the log."""
    own = threading.get_ident()

    def is_others(record: logging.LogRecord) -> bool:
        return record.thread != own

    _LOGGER.addFilter(is_others)
    try:
        yield
    finally:
        _LOGGER.removeFilter(is_others)


@contextmanager
def quiet_trial() -> Iterator[None]:
    """Hide also warnings: the function is run in a way that its author may never have thought of.

    ``x.T`` of a batch warns, for instance; and as an exception that warning would keep its tensors
    (torch 2.13).
    """
    with _FILTERS, warnings.catch_warnings(), quiet_fakes():
        warnings.simplefilter("ignore")
        yield
