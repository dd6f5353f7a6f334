"""Scores of single images are written by simulations alone, and they are those behind the summary."""

import json
import stat
from pathlib import Path

import numpy as np
import polars
import pytest

from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy import metrics_of
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations import run as run_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from melfed.simulations.run import simulate
from tests.in_process import SilentObserver, federate

COLUMNS = {
    "image": polars.String,
    "clinic": polars.String,
    "group": polars.String,
    "target": polars.Int8,
    "logit": polars.Float64,
    "probability": polars.Float64,
}


def study_of(mode: str, **changes: object) -> StudyProtocol:
    content = {
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "federation": {"mode": mode, "rounds": 1},
    }
    return StudyProtocol.model_validate_json(json.dumps(content | changes))


@pytest.fixture
def virtual(phantom: Path, tmp_path: Path) -> VirtualClinics:
    return divide(study_of("central"), phantom, tmp_path / "cache")


@pytest.mark.parametrize("mode", ["federated", "central", "local"])
def test_a_row_an_image_of_the_test_parts(
    mode: str, virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    summary = simulate(study_of(mode), virtual, tmp_path / "run", SilentObserver())
    path = tmp_path / "run" / "predictions.parquet"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    table = polars.read_parquet(path)
    assert dict(table.schema) == COLUMNS
    expected = {(r.image, c.name, r.target) for c in virtual.clinics for r in c.test}
    assert set(table.select("image", "clinic", "target").iter_rows()) == expected
    assert len(table) == len(expected)
    assert np.allclose(1 / (1 + np.exp(-table["logit"].to_numpy())), table["probability"], atol=1e-12)
    of_each = {clinic.name: clinic.test for clinic in summary.clinics}
    for clinic in virtual.clinics:
        rows, images = table.filter(polars.col("clinic") == clinic.name), clinic.load("test")
        assert list(rows["group"]) == images.groups
        assert list(rows["image"]) == [record.image for record in images.records]
        scores = ScoreHistogram.from_scores(rows["logit"].to_numpy(), images.targets, images.groups)
        assert metrics_of(scores) == of_each[clinic.name]


def test_a_private_study_has_none_unless_asked(
    virtual: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    privacy = {"unit": "image", "epsilon": 8, "recipe": "manual"}
    study = study_of("federated", privacy=privacy)
    simulate(study, virtual, tmp_path / "without", SilentObserver())
    assert not (tmp_path / "without" / "predictions.parquet").exists()
    simulate(study, virtual, tmp_path / "with", SilentObserver(), predictions=True)
    assert (tmp_path / "with" / "predictions.parquet").exists()
    simulate(study_of("central"), virtual, tmp_path / "no", SilentObserver(), predictions=False)
    assert not (tmp_path / "no" / "predictions.parquet").exists()
