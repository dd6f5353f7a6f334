"""A row a network, and a run's model judged in all its forms."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.simulations.benchmarks import export
from melfed.simulations.benchmarks.export import FAMILIES, compared, judged, measure, milliseconds, pictures, upright
from tests.common.export.models import pictures as made_pictures
from tests.server.finished import finish, labelled, study_with

pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")


def test_a_row_has_sizes_and_times() -> None:
    (row,) = measure(["squeezenet1_1"], 32, 2, list(made_pictures(8)))
    assert row["int8_mb"] < 0.5 * row["onnx_mb"]
    assert row["onnx_mb"] == pytest.approx(row["safetensors_mb"], rel=0.2)
    assert min(row["torch_ms"], row["onnx_ms"], row["int8_ms"]) > 0
    json.dumps(row)


def test_a_time_is_a_median_without_the_first_two() -> None:
    calls = []
    assert milliseconds(lambda: calls.append(1), 3) < 1000
    assert len(calls) == 5


def test_a_run_is_judged_in_all_forms(tmp_path: Path) -> None:
    folder, _ = finish(tmp_path / "run", study_with())
    found = judged(folder.path, labelled(tmp_path / "data"), list(made_pictures(8)), most=12)
    assert found["images"] == 10  # every third of thirty
    assert found["torch"]["largest_logit_difference"] == 0
    assert found["onnx_from_input"]["largest_logit_difference"] < 1e-4
    for form in ("onnx_from_file", "int8_from_file"):
        assert 0 < found[form]["mean_probability_difference"] < found[form]["largest_probability_difference"] < 0.5


def test_ways_to_eight_bits_are_compared_with_single_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "WAYS", {name: export.WAYS[name] for name in ("as it is", "all in 8 bits")})
    folder, _ = finish(tmp_path / "run", study_with())
    exact, as_it_is, whole = compared(folder.path, labelled(tmp_path / "data"), list(made_pictures(8)), most=30)
    assert [row["way"] for row in (exact, as_it_is, whole)] == ["single precision", "as it is", "all in 8 bits"]
    assert (exact["mean_probability_difference"], exact["logits_correlation"]) == (0, pytest.approx(1))
    assert 0 < as_it_is["mean_probability_difference"] < whole["mean_probability_difference"]
    assert as_it_is["logits_correlation"] > whole["logits_correlation"]
    assert min(row["ms"] for row in (exact, as_it_is, whole)) > 0
    json.dumps([exact, as_it_is, whole])


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert upright(tmp_path / "a.jpg").shape == (30, 20, 3)


def test_there_is_a_network_of_each_family_and_lesions_are_rendered_where_no_folder_is_named() -> None:
    assert len(FAMILIES) == 11
    rendered = pictures(None, 32)
    assert len(rendered) > 10
    assert rendered[0].shape == (32, 32, 3)
