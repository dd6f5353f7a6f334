"""Two clinics that differ in one patient, and what both are asked."""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.privacy.noise import NoiseSource
from melfed.client.training import inputs
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit import worlds
from melfed.simulations.audit.door import (
    quiet,
)
from melfed.simulations.audit.worlds import scenarios


@pytest.fixture(autouse=True)
def _fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(7)
    for module in ("melfed.client.training.private", "melfed.client.worker.worker"):
        monkeypatch.setattr(f"{module}.NoiseSource", lambda: NoiseSource(noise.bytes))


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation computes a whole batch, whatever images there are: 64 stored features here, elsewhere 2,048."""
    monkeypatch.setattr(inputs, "CACHED_MICRO_BATCH_ELEMENTS", 1 << 10)


@pytest.fixture(autouse=True)
def _fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the patient for whom work is called off, all of which are computed anew in each trial."""
    monkeypatch.setattr(worlds, "MANY_IMAGES", 90)


def study_at(epsilon: float, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "epsilon": epsilon, "recipe": "manual", **privacy}
    return StudyProtocol.model_validate({"privacy": stated})


def test_questions_are_answered_and_the_budget_is_kept(tmp_path: Path) -> None:
    """The trials ask what a coordinator can: all that is paid for is answered, all that is not is declined."""
    with quiet(), scenarios(study_at(2.0), 2.0, tmp_path) as makers:
        scenario = makers[0]()
        for included in (False, True):
            seen = scenario.trial(included)
            kinds = {label: seen[f"{label}: kind"] for label in scenario.questions}
            assert set(kinds.values()) == {"Description", "Answer", "DeclinedError"}
            assert [label for label, kind in kinds.items() if kind == "DeclinedError"] == ["train 4", "describe 3"]
            assert seen["train 2: repeats"] == "train 1"
            assert seen["describe 2: repeats"] == "describe 1"
            assert float(seen["evaluate 1: account.epsilon"]) <= 2.0
    assert scenario.direction["head.bias"] == pytest.approx(-1.0, abs=1e-3)


def test_only_one_of_the_worlds_has_the_patient(tmp_path: Path) -> None:
    with quiet(), scenarios(study_at(2.0), 2.0, tmp_path) as makers:
        for make in makers:
            scenario = make()
            without, including = (clinic.data(scenario.study) for clinic in scenario.clinics)
            parts = {part: (set(getattr(without, part)), set(getattr(including, part))) for part in ("train", "test")}
            assert all(before <= after for before, after in parts.values()), scenario.name
            more = [record for before, after in parts.values() for record in after - before]
            assert len({record.patient_id for record in more}) == 1, scenario.name
            assert without.validation == including.validation
