"""What scores become before they leave: whatever is noised is paid for before anybody is scored."""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.data.clinic_data import ClinicData
from melfed.client.worker.evaluation import EVALUATED, Evaluation, has_noise
from melfed.client.worker.guard import Guard, Protection, Request
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.ledger.ledgers import too_little
from tests.client.private_clinic import charges, study_of
from tests.client.small import small_study

ASKED = {"subgroups": ("sex", "source")}
PRIVATE = study_of(epsilon=2.0).with_changes("evaluation", **ASKED)
PLAIN = small_study(evaluation=ASKED)
PUBLIC = study_of(evaluation="public").with_changes("evaluation", **ASKED)


@pytest.fixture
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


def leaving(folder: Path, north: ClinicData, study: StudyProtocol) -> Evaluation:
    guard = Guard(study, Protection(folder / "north.jsonl"), north) if study.privacy else None
    return Evaluation(study, guard, north.load)


class Scores:
    """Logits of a part, and how often they were asked for."""

    def __init__(self, north: ClinicData) -> None:
        self.north, self.asked = north, 0

    def __call__(self, part: str) -> np.ndarray:
        self.asked += 1
        return np.random.default_rng(len(part)).normal(size=len(self.north.load(part)))  # type: ignore[arg-type]


def test_only_a_private_study_with_noised_evaluation_has_noise() -> None:
    assert [has_noise(study) for study in (PRIVATE, PLAIN, PUBLIC)] == [True, False, False]


@pytest.mark.parametrize("study", [PRIVATE, PLAIN, PUBLIC], ids=["private", "plain", "public"])
def test_all_that_leaves_is_of_one_kind_and_charged_where_it_has_noise(
    study: StudyProtocol, north: ClinicData, tmp_path: Path
) -> None:
    told, scores, request = leaving(tmp_path, north, study), Scores(north), Request("run", 2, {})
    for _ in range(2):
        found = told.histograms(scores, request, EVALUATED) | told.by_subgroup(scores, request)
        assert set(found) == {*EVALUATED, "subgroups/sex/0", "subgroups/sex/1", "subgroups/sex/2"}
    kind = NoisyHistogram if has_noise(study) else ScoreHistogram
    assert all(isinstance(histogram, kind) for histogram in found.values())
    assert charges(tmp_path) == ([("evaluation", 2), ("subgroups", 2)] if has_noise(study) else [])
    if has_noise(study):
        assert scores.asked == 3, "what was paid for is given again without another look"


def test_who_cannot_pay_scores_nobody(north: ClinicData, tmp_path: Path) -> None:
    told, scores = leaving(tmp_path, north, PRIVATE), Scores(north)
    with too_little("^of ε = 2"):
        for number in range(100):
            told.by_subgroup(scores, Request(f"run {number}", 2, {}))
    assert scores.asked == len(charges(tmp_path)) == number


def test_a_study_that_asks_for_none_pays_for_none(north: ClinicData, tmp_path: Path) -> None:
    study = PRIVATE.with_changes("evaluation", subgroups=("source",))
    assert leaving(tmp_path, north, study).by_subgroup(Scores(north), Request("run", 2, {})) == {}
    assert charges(tmp_path) == []
