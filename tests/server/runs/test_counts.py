"""What clinics say of their data: who is believed, and that noise makes no honest clinic a liar."""

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import MetricRecord, RecordDict

from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.common import messages
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.members import Members, _Register
from melfed.server.flower import channel as exchange
from tests.common.noisy import EDGES
from tests.server.fakes import (
    COUNT_NOISE,
    EVALUATION_NOISE,
    INITIAL,
    Recorder,
    Run,
    arrays,
    clinics_of,
    grid_of,
    metrics,
    study_of,
)

NOISED, PUBLIC = {"epsilon": 3.0}, {"epsilon": 3.0, "evaluation": "public"}
TAIL = 6.0
"""Standard deviations beyond which a normal number lies once in 10^9 times."""


@pytest.mark.parametrize("privacy", [NOISED, PUBLIC])
def test_a_clinic_may_have_nothing(tmp_path: Path, privacy: dict[str, object]) -> None:
    """No part of a private study has a number of patients that is too small, or a class that may not be absent."""
    study = study_of(2, rounds=2, privacy=privacy)

    def nobody(content: RecordDict) -> RecordDict:
        for name in ("counts", "metrics"):
            if name in content.metric_records:
                numbers = dict(content.metric_records[name])
                keep = {"noise", "weight"}
                content[name] = MetricRecord({key: value if key in keep else 0 for key, value in numbers.items()})
        if "metrics" in content.metric_records:
            content["metrics"] = MetricRecord({"weight": 1})
        for part in ("validation", "test"):
            if part in content.array_records:
                content[part] = arrays(_of_nothing(study).to_arrays())
        return content

    clinics = clinics_of(study, "ab")
    clinics[0].tamper = dict.fromkeys((messages.DESCRIBE, messages.TRAIN, messages.EVALUATE), nobody)
    run = Run(tmp_path / "run", study, grid_of(clinics))
    outcome = run.conduct()
    assert [event["answered"] for event in run.events("round")] == [["a", "b"]] * 2
    assert list(outcome.test) == ["a", "b"]


def _of_nothing(study: StudyProtocol) -> Histogram:
    if study.privacy is None or study.privacy.evaluation == "public":
        return ScoreHistogram.empty()
    return noised_histograms({"test": ([], [], [])}, EVALUATION_NOISE, NoiseSource(), EDGES)["test"]


def test_a_weight_is_at_most_what_the_clinic_told(tmp_path: Path) -> None:
    study = study_of(2, rounds=1, quorum=0.5, privacy=NOISED)
    clinics = clinics_of(study, "ab")
    clinics[0].tamper = {messages.TRAIN: metrics(weight=21)}
    run = Run(tmp_path / "run", study, grid_of(clinics))
    run.conduct()
    assert run.events("round")[0]["failed"] == {"a": "claims a weight of 21, said 20 training units before"}


def test_noise_makes_no_clinic_heavier_than_the_largest(tmp_path: Path) -> None:
    """An honest clinic that seems larger than the study lets it be is believed, and weighs as the largest."""
    study = study_of(2, rounds=1, privacy=NOISED, largest_clinic=40)
    clinics = clinics_of(study, "ab")
    clinics[0].images = 40 + int(TAIL * math.sqrt(2) * COUNT_NOISE)
    run = Run(tmp_path / "run", study, grid_of(clinics))
    model = run.conduct().models[""]
    assert run.events("round")[0]["answered"] == ["a", "b"]
    trained = [clinic.trained(INITIAL, 1) for clinic in clinics]
    for name in INITIAL:
        expected = (40 * trained[0][name].astype(float) + 30 * trained[1][name]) / 70
        np.testing.assert_allclose(model[name], expected, rtol=1e-6)


def test_what_a_clinic_told_is_on_disk_for_whoever_goes_on(tmp_path: Path) -> None:
    study = study_of(2, rounds=1, privacy=NOISED)
    grid = grid_of(clinics_of(study, "ab"))
    run = Run(tmp_path / "run", study, grid, expected=2)
    members = Members(study, run.folder, run.terms, Recorder())
    members.gather(exchange.FlowerChannel(grid))
    members.remember()
    register = _Register.model_validate_json(run.folder.members.read_bytes())
    assert {name: known.counts for name, known in register.clinics.items()} == members.counts
    assert members.counts["a"].noise == COUNT_NOISE
