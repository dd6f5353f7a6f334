"""Tensors in a message's record."""

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.messages import DESCRIBE, DESCRIPTION, PACKED, pack, packed_bytes, unpack
from melfed.common.tensors import TensorError


class Stored:
    """An array of a record from outside."""

    def __init__(self, data: bytes, stype: str = PACKED, **_: object) -> None:
        self.data, self.stype = data, stype


@given(st.dictionaries(st.text(min_size=1), st.lists(st.floats(width=32), max_size=3), min_size=1, max_size=3))
def test_tensors_come_back_as_they_were_packed(content: dict[str, list[float]]) -> None:
    tensors = {name: np.array(values, np.float32) for name, values in content.items() if name != "__metadata__"}
    found = unpack("tensors", {PACKED: Stored(**pack(tensors))})
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_an_empty_record_has_no_tensors() -> None:
    assert unpack("tensors", {}) == {}


def test_the_bytes_are_those_of_safetensors() -> None:
    tensors = {"w": np.arange(6, dtype=np.float32)}
    packed = pack(tensors)
    assert packed["data"] == packed_bytes("tensors", {PACKED: Stored(**packed)}) == safetensors.numpy.save(tensors)
    assert packed["shape"] == (len(packed["data"]),)


@pytest.mark.parametrize("content", [b"", b"no file", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}more", b"\x93NUMPY\x01\x00"])
def test_what_is_no_file_of_tensors_is_one_line(content: bytes) -> None:
    with pytest.raises(TensorError, match="tensors cannot be read"):
        unpack("validation", {PACKED: Stored(content)})


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"other": Stored(b"")}, "validation cannot be read: it holds nothing, not safetensors"),
        ({PACKED: Stored(b"", "numpy")}, "validation cannot be read: it holds 'numpy', not safetensors"),
    ],
)
def test_a_record_of_something_else_is_refused(record: dict[str, Stored], reason: str) -> None:
    with pytest.raises(TensorError) as caught:
        unpack("validation", record)
    assert str(caught.value) == reason


def test_a_query_is_named_as_flower_routes_it() -> None:
    assert f"query.{DESCRIPTION}" == DESCRIBE
