"""Frames that GDCM decodes in a process of its own: damage and delay end with a reason."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from melfed.common.data.images.decoder import ImageProblem, decode_bytes
from tests.common.data.made_pictures import (
    SIDE,
    dicom_bytes,
    native,
    transcoded,
)


def decoded(made: Dataset | bytes) -> np.ndarray:
    return decode_bytes(made if isinstance(made, bytes) else dicom_bytes(made), SIDE)


def reason(made: Dataset | bytes) -> str:
    with pytest.raises(ImageProblem) as caught:
        decoded(made)
    assert "\n" not in caught.value.reason
    return caught.value.reason


def test_damage_that_ends_gdcm_is_a_problem_of_one_picture(tmp_path: Path) -> None:
    """GDCM answers a lossless JPEG without its Huffman tables with an exception that ends the process."""
    made = transcoded(native(), "JPEGLosslessProcess14_1", tmp_path)
    made.PixelData = made.PixelData.replace(b"\xff\xc4", b"\xff\x01")
    assert "damaged DICOM" in reason(made)


def test_decoding_apart_ends_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("melfed.common.data.images.decode_apart.SECONDS", 0.01)
    assert "damaged DICOM" in reason(transcoded(native(), "JPEGLosslessProcess14_1", tmp_path))
