"""Tensors in a message's record."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.messages import DESCRIBE, DESCRIPTION, PACKED, pack, unpack
from melfed.common.tensors import TensorError


class Stored:
    """An array of a record from outside."""

    def __init__(self, content: object) -> None:
        self.content = content

    def numpy(self) -> np.ndarray:
        if isinstance(self.content, Exception):
            raise self.content
        return self.content  # type: ignore[return-value]


@given(st.dictionaries(st.text(min_size=1), st.lists(st.floats(width=32), max_size=3), min_size=1, max_size=3))
def test_tensors_come_back_as_they_were_packed(content: dict[str, list[float]]) -> None:
    tensors = {name: np.array(values, np.float32) for name, values in content.items() if name != "__metadata__"}
    found = unpack("tensors", {PACKED: Stored(pack(tensors))})
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_an_empty_record_has_no_tensors() -> None:
    assert unpack("tensors", {}) == {}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (ValueError("no array"), "validation cannot be read: no array"),
        ({"an": "archive"}, "validation cannot be read: not an array"),
        (np.zeros(4, np.float32), r"packed as float32 of shape \(4,\), not as bytes"),
        (np.zeros((2, 2), np.uint8), r"packed as uint8 of shape \(2, 2\), not as bytes"),
        (np.zeros(8, np.uint8), "tensors cannot be read"),
    ],
)
def test_what_is_no_file_of_tensors_is_one_line(content: object, reason: str) -> None:
    with pytest.raises(TensorError, match=reason):
        unpack("validation", {PACKED: Stored(content)})
    with pytest.raises(TensorError, match="cannot be read"):
        unpack("validation", {"other": Stored(np.zeros(8, np.uint8))})


def test_a_query_is_named_as_flower_routes_it() -> None:
    assert f"query.{DESCRIPTION}" == DESCRIBE
