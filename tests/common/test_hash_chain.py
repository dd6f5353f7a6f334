"""One line a row, sealed by its hash."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.hash_chain import GENESIS, NoRowError, seal, to_line, unseal

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
ROWS = st.dictionaries(st.text().filter(lambda name: name != "hash"), VALUES, min_size=1, max_size=5)


@given(ROWS)
def test_a_row_comes_back_as_it_was_sealed(row: dict[str, object]) -> None:
    sealed = seal(row)
    line = to_line(sealed)
    assert line.endswith(b"\n")
    assert unseal(line[:-1]) == sealed
    assert {name: value for name, value in sealed.items() if name != "hash"} == row


def test_a_line_is_what_files_of_former_versions_hold() -> None:
    line = b'{"sequence":1,"previous":"' + GENESIS.encode() + b'","text":"\\u03b5"'
    digest = hashlib.sha256(line).hexdigest()
    row = {"sequence": 1, "previous": GENESIS, "text": "ε"}
    assert to_line(seal(row)) == line + f',"hash":"{digest}"}}\n'.encode()


@given(ROWS, st.data())
def test_any_changed_byte_is_found(row: dict[str, object], data: st.DataObject) -> None:
    line = bytearray(to_line(seal(row))[:-1])
    place = data.draw(st.integers(0, len(line) - 1))
    line[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(NoRowError):
        unseal(bytes(line))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"a":1,"a":2', "'a' stands there twice"),
        (b'{"a":NaN', "NaN is no number"),
        (b'{"a":', "is not a JSON object"),
        (b'["a"', "is not a JSON object"),
    ],
)
def test_what_no_program_has_written_is_no_row_though_its_hash_fits(body: bytes, words: str) -> None:
    with pytest.raises(NoRowError, match=words):
        unseal(body + f',"hash":"{hashlib.sha256(body).hexdigest()}"}}'.encode())


def test_a_number_that_json_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        seal({"a": float("nan")})
    assert json.loads(to_line(seal({"a": 0.1})))["a"] == 0.1
