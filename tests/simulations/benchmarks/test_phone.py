"""The benchmark of the page for phones measures both pages on a photograph of a phone's size."""

import json
from pathlib import Path

import pytest
from PIL import Image

from melfed.common.errors import RunError, WeightsError
from melfed.server.phone.runtime import runtime_files
from melfed.simulations.benchmarks.phone import PHOTOGRAPH, measure, network, photograph
from tests.browser import started


def test_a_photograph_is_of_a_phones_size_and_turned_by_its_exif(tmp_path: Path) -> None:
    with Image.open(photograph(tmp_path / "a.jpg")) as image:
        assert (image.format, image.size) == ("JPEG", PHOTOGRAPH)
        assert image.getexif()[0x0112] == 6
    assert (tmp_path / "a.jpg").stat().st_size > 1e6


def test_both_pages_are_opened_and_answer(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")
    try:
        network()
        runtime_files()
    except (RunError, WeightsError) as error:  # no weights (extra 'demo'), or neither npm nor a network
        pytest.skip(str(error))
    with started():
        pass  # skips where there is no browser
    found = measure(tmp_path, size=64, opens=1, further=2)
    json.dumps(found)
    for name in ("float", "int8"):
        assert 0 < found[name]["read_s"] < found[name]["further_s"]
        assert 0 < found[name]["network_s"] < found[name]["further_s"]
        assert found[name]["first_s"] > 0
        assert 13 < found[name]["page_mb"] - found[name]["model_mb"] < 15  # ONNX Runtime
        assert 0 < found[name]["probability"] < 1
    assert found["int8"]["probability"] == pytest.approx(found["float"]["probability"], abs=0.2)
    assert found["int8_over_float"]["model_mb"] < 0.4
