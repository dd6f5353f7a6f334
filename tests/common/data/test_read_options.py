"""What the command line says about a folder."""

import pytest

from melfed.common.data.read_options import read_options
from melfed.common.errors import DataError


def test_words_folders_and_ids() -> None:
    options = read_options(["Klasse A=mel", "a = b=NV", "x=leave_out"], shared_ids=True, classes="benign=0,melanoma=1")
    assert options.diagnoses == {"klasse a": "mel", "a b": "nv", "x": "leave_out"}
    assert options.shared_ids
    assert options.classes == {"benign": "0", "melanoma": "1"}


def test_nothing_said() -> None:
    assert (read_options().diagnoses, read_options().shared_ids, read_options().classes) == ({}, False, None)


@pytest.mark.parametrize(
    ("diagnoses", "classes", "message"),
    [
        (["foo"], None, "--diagnosis foo: write it as WORD=CODE"),
        (["=mel"], None, "write it as WORD=CODE"),
        (["foo="], None, "write it as WORD=CODE"),
        (
            ["foo=melanoma"],
            None,
            r"'foo' is mapped to 'melanoma', which is no code \(did you mean mel\?\)",
        ),
        (["foo=mel", "foo=nv"], None, "--diagnosis: 'foo' is given two codes"),
        (["foo=mel", "FOO=nv"], None, "'FOO' is mapped to nv and to mel"),
        ([], "benign", "--classes benign: write it as WORD=CODE"),
    ],
)
def test_options_that_cannot_be_are_refused(diagnoses: list[str], classes: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_options(diagnoses, classes=classes)
