"""The benchmark of an update's way: its study, and what it makes of a run's figures."""

from pathlib import Path
from typing import Any

import pytest

from melfed.common.study.file import read_study
from melfed.simulations.benchmarks import update

FOUND: dict[str, Any] = {
    "model_mb": 50.0,
    "round_seconds": [90.0, 8.0, 10.0, 12.0],
    "simulated_round": 4.0,
    "peak_mb": {update.SERVERAPP: 250.0, "client: worker": 500.0},
    "database_mb_peak": 25.0,
    "objects_mb_peak": 200.0,
    "second_round": {"round": 8.0},
}


def test_the_first_round_does_not_count_and_memory_is_told_in_models() -> None:
    found = update.summed_up(FOUND)
    assert (found["ours"], found["reference"], found["ratio"]) == (10.0, 4.0, 2.5)
    assert found["peak_models"] == {update.SERVERAPP: 5.0, "client: worker": 10.0}
    assert (found["database_models"], found["files_models"]) == (0.5, 4.0)


@pytest.mark.parametrize(("backbone", "compression"), [("resnet50", "none"), ("simple_cnn", "int8")])
def test_the_study_is_one(tmp_path: Path, backbone: str, compression: str) -> None:
    (tmp_path / "study.yaml").write_text(update.study_of(backbone, 7, compression))
    study = read_study(tmp_path / "study.yaml")
    assert (study.model.backbone, study.federation.rounds) == (backbone, 7)
    assert study.federation.compression == compression
