"""How long a round may take here: by one step on synthetic images, and the study's guess of how many there are."""

import hashlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.client.training.rehearsal import (
    MOST_MINUTES,
    Timed,
    coarse_minutes,
    guessed_patients,
    rehearse,
    round_seconds,
)
from melfed.common.errors import WeightsError
from melfed.common.study.protocol import StudyProtocol
from tests.client.small import CPU, small_study
from tests.common.runs import finished_run, public_model

PARTS = {"validation": 0.1, "test": 0.3}
PRIVATE = {"unit": "patient", "noise_multiplier": 2.0, "recipe": "manual", "patients": 600}


@given(st.floats(0, 1e9))
def test_what_is_told_is_a_power_of_two_of_minutes_and_no_less_than_it_takes(seconds: float) -> None:
    told = coarse_minutes(seconds)
    assert told.bit_count() == 1
    assert 1 <= told <= MOST_MINUTES
    if told < MOST_MINUTES:
        assert told * 60 >= seconds
    if told > 1:
        assert told * 30 < max(seconds, 1.0)


def test_a_round_of_a_private_study_by_hand() -> None:
    study = small_study(partition=PARTS, privacy={**PRIVATE, "steps": 3, "sampling_rate": 0.5, "views": 2})
    # 600 train, and 1000 are there in all; half of 600 in each of 3 steps, 2 views each, and 400 are scored.
    assert round_seconds(study, Timed(row=0.01, prefix=0.0)) == pytest.approx(0.01 * (3 * 300 * 2 + 400))
    assert round_seconds(study, Timed(row=0.01, prefix=0.1)) == pytest.approx(0.01 * 2200 + 0.1 * 1000)


def test_a_round_of_another_study_by_hand() -> None:
    study = small_study(partition=PARTS, training={"local_epochs": 0.25})
    assert guessed_patients(study) == 1000
    everybody = 1000 / 0.6
    assert round_seconds(study, Timed(0.02, 0.0)) == pytest.approx(0.02 * (250 + everybody - 1000))


def test_a_second_model_takes_its_time_as_well() -> None:
    study = small_study(partition=PARTS, federation={"algorithm": "ditto"})
    assert round_seconds(study, Timed(0.02, 0.0)) == pytest.approx(0.02 * (2 * 1000 + 1000 / 0.6 - 1000))


@pytest.mark.parametrize("privacy", [None, {**PRIVATE, "views": 2}])
def test_a_step_is_timed(privacy: dict[str, object] | None) -> None:
    study = small_study(**({"privacy": privacy} if privacy else {"training": {"augment": True}}))
    timed = rehearse(study, None, CPU)
    assert 0 < timed.row < 1
    assert timed.prefix == 0, "everything learns"


def test_a_frozen_part_is_timed_apart(tmp_path: Path) -> None:
    folder = finished_run(tmp_path / "public", public_model())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    study = small_study(model={"pretrained": True, "weights_sha256": digest, "train": "head"}, privacy=PRIVATE)
    timed = rehearse(study, folder, CPU)
    assert 0 < timed.prefix < 1
    assert 0 < timed.row < 1


def test_a_study_whose_weights_are_not_here_is_not_timed(tmp_path: Path) -> None:
    study = small_study(model={"pretrained": True, "weights_sha256": "0" * 64, "train": "head"})
    with pytest.raises(WeightsError):
        rehearse(study, tmp_path, CPU)


def test_a_longer_study_takes_longer() -> None:
    timed = Timed(0.01, 0.02)

    def seconds(study: StudyProtocol) -> float:
        return round_seconds(study, timed)

    few, many = (small_study(privacy={**PRIVATE, "patients": patients}) for patients in (100, 10_000))
    assert math.isclose(seconds(many), 100 * seconds(few))
