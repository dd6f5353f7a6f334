"""Of which images an explanation may be asked."""

from pathlib import Path

import pytest

from melfed.common.errors import DataError
from melfed.common.terminal.explain_option import one_to_explain

A, OUT = Path("a.png"), Path("out.png")


def test_of_one_image_an_explanation_is_written_and_of_several_none() -> None:
    one_to_explain([A], OUT)
    one_to_explain([A, A], None)
    with pytest.raises(DataError, match=r"--explain out\.png: 2 images are named; name one"):
        one_to_explain([A, A], OUT)
