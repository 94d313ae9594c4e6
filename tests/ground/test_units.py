"""Bytes as people write and read them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from chunkjac._arguments import shown
from chunkjac._errors import ArgumentError, ArgumentTypeError
from chunkjac._units import format_bytes, parse_bytes


class Whole:
    """Be a whole number that is no int."""

    def __index__(self) -> int:
        return 1024


@pytest.mark.parametrize(
    ("value", "n_bytes"),
    [
        (1, 1),
        (1023, 1023),
        (2**62, 2**62),
        (np.int64(1024), 1024),
        (np.uint8(255), 255),
        (Whole(), 1024),
    ],
)
def test_a_whole_number_is_bytes(value: Any, n_bytes: int) -> None:
    found = parse_bytes(value, name="max_memory")
    assert found == n_bytes
    assert type(found) is int


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("1", 1),
        ("1023", 1023),
        ("1023B", 1023),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("500MB", 500_000_000),
        ("1MiB", 2**20),
        ("0.5GB", 500_000_000),
        ("1.5GiB", 3 * 2**29),
        (".5KiB", 512),
        ("2.KiB", 2048),
        (" 4 GiB ", 2**32),
        ("1TB", 10**12),
        ("1TiB", 2**40),
        ("1PB", 10**15),
        ("1PiB", 2**50),
    ],
)
def test_text_has_si_or_iec_units(text: str, n_bytes: int) -> None:
    assert parse_bytes(text, name="max_memory") == n_bytes


@pytest.mark.parametrize(
    ("text", "of_bytes", "n_bytes"),
    [
        ("80%", 1000, 800),
        ("100%", 1023, 1023),
        ("12.5%", 1024, 128),
        ("50 %", 3, 1),  # downwards
        ("1%", 10, 1),  # never to nothing
    ],
)
def test_a_percentage_is_of_what_is_free(text: str, of_bytes: int, n_bytes: int) -> None:
    assert parse_bytes(text, of_bytes=of_bytes, name="max_memory") == n_bytes


def test_a_percentage_of_nothing_is_only_checked() -> None:
    assert parse_bytes("80%", name="max_memory") >= 1
    with pytest.raises(ArgumentError):
        parse_bytes("150%", name="max_memory")


@pytest.mark.parametrize(
    ("text", "of_bytes", "n_bytes"),
    [
        ("1.001kB", None, 1001),
        ("57%", 10_000, 5700),
        ("9007199254740993", None, 2**53 + 1),
        pytest.param("9" * 400, None, 10**400 - 1, id="more than a float can hold"),
    ],
)
def test_a_decimal_is_read_exactly(text: str, of_bytes: int | None, n_bytes: int) -> None:
    assert parse_bytes(text, of_bytes=of_bytes, name="max_memory") == n_bytes


@pytest.mark.parametrize("value", [True, False, 1.5, 1024.0, None, [1], b"1", np.float64(4), np.True_])
def test_what_is_neither_whole_nor_text_is_a_type_error(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"^max_memory .*4GiB") as caught:
        parse_bytes(value, name="max_memory")
    assert isinstance(caught.value, TypeError)
    assert shown(value) in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [0, -1, -(2**62), "0", "0GiB", "-1", "0.4B", "4.5", "", " ", "GiB", "1e3", "4GiB 2", "nan", "inf", "٣"],
)
def test_what_is_not_positive_or_not_readable_is_a_value_error(value: int | str) -> None:
    with pytest.raises(ArgumentError, match=r"^chunk_memory .*4GiB") as caught:
        parse_bytes(value, name="chunk_memory")
    assert isinstance(caught.value, ValueError)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("text", ["0%", "0.0%", "100.1%", "150%"])
def test_a_percentage_is_above_0_and_at_most_100(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^max_memory must be above 0% and at most 100%") as caught:
        parse_bytes(text, of_bytes=1000, name="max_memory")
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["4G", "4g", "4 Gb", "4gb", "4gB", "4Gi", "4gib", "4GIB"])
def test_an_ambiguous_unit_names_both_that_may_be_meant(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"ambiguous unit .*GiB for powers of 1024, GB for powers of 1000"):
        parse_bytes(text, name="max_memory")


@pytest.mark.parametrize("text", ["12 potatoes", "4XB", "4GBs", "4Gbit"])
def test_an_unknown_unit_is_named(text: str) -> None:
    unit = text.lstrip("0123456789 ")
    with pytest.raises(ArgumentError, match=f"unknown unit '{unit}'"):
        parse_bytes(text, name="max_memory")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1025, "1.001 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 - 1024, "1023 KiB"),
        (1024**2, "1 MiB"),
        (3 * 2**29, "1.5 GiB"),
        (2**40, "1 TiB"),
        (2**50, "1024 TiB"),
        (-1536, "-1.5 KiB"),
    ],
)
def test_bytes_are_shown_in_binary_units(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text


@pytest.mark.parametrize("n_bytes", [1, 1000, 1023, 1024, 1536, 2**20, 2**30, 2**40])
def test_what_is_shown_can_be_given_again(n_bytes: int) -> None:
    assert parse_bytes(format_bytes(n_bytes), name="max_memory") == n_bytes
