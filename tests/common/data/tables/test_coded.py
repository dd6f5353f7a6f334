import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.data.tables.coded import Coded, each, rows_of


def coded(cells):
    values = sorted(set(cells), key=str)
    return Coded(values, np.array([values.index(cell) for cell in cells], np.uint32))


CELLS = st.lists(st.sampled_from(["a", "b", "c", None]), min_size=5, max_size=5)


@given(CELLS)
def test_it_is_a_list_of_its_items(cells):
    assert coded(cells) == cells
    calls = []
    made = each(lambda cell: calls.append(cell) or cell.upper(), coded(cells))
    assert made == each(str.upper, cells) == [cell and cell.upper() for cell in cells]
    assert len(calls) == len(set(cells) - {None})


@given(st.lists(CELLS, min_size=1, max_size=4))
def test_columns_side_by_side(columns):
    expected = list(zip(*columns, strict=True))
    assert list(rows_of([coded(column) for column in columns])) == list(rows_of(columns)) == expected


def test_items_are_not_to_be_changed():
    with pytest.raises(TypeError, match="make a list of it"):
        coded(["a"])[0] = "b"
