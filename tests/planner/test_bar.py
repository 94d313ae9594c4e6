"""The bar that shows what memory is used for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chunkjac._planner.bar import draw_bar

AMOUNTS = st.integers(0, 10**12)


def test_a_bar_by_hand() -> None:
    bar, legend = draw_bar({"result": 200, "kept": 100, "seeds": 0}, 500)
    assert bar == "|" + "R" * 20 + "K" * 10 + "." * 20 + "|"
    assert legend == "R result 200 B, K kept 100 B, . free 200 B"


def test_parts_that_exceed_the_whole_fill_it() -> None:
    bar, legend = draw_bar({"result": 300, "kept": 100}, 100)
    assert bar == "|" + "R" * 38 + "K" * 12 + "|"  # 37.5 and 12.5
    assert legend.endswith(". free 0 B")


@given(AMOUNTS, AMOUNTS, AMOUNTS, st.integers(1, 10**12))
def test_cells_add_up_and_none_is_off_by_more_than_one(result: int, kept: int, seeds: int, whole: int) -> None:
    parts = {"result": result, "kept": kept, "seeds": seeds}
    bar, _ = draw_bar(parts, whole)
    total = max(sum(parts.values()), whole)
    assert len(bar) == 52
    for name, n_bytes in parts.items():
        assert abs(bar.count(name[0].upper()) - 50 * n_bytes / total) < 1
