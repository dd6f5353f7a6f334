"""What a private study can expect, before anything is spent."""

from pathlib import Path

import pytest

from melfed.common.errors import StudyError
from melfed.common.moments.expected import expected_auroc, require_useful
from melfed.common.study.build import seal
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import resolve
from tests.common.runs import finished_run, public_model


@pytest.fixture
def public(tmp_path: Path) -> Path:
    model = public_model(neck=16)
    model.head.weight.data.fill_(1.5)
    return finished_run(tmp_path / "run", model)


def study_of(public: Path, patients: int, epsilon: float | None, **privacy: object) -> StudyProtocol:
    content = {
        "model": {"backbone": "simple_cnn", "neck": 16, "weights": str(public)},
        "federation": {"mode": "one_round"},
        "privacy": {"unit": "patient", "epsilon": epsilon, "patients": patients, **privacy},
    }
    return seal(resolve(StudyProtocol.model_validate(content))[0])


def test_more_patients_and_more_epsilon_and_more_clinics_promise_more(public: Path) -> None:
    def expected(patients: int, epsilon: float, clinics: int = 3) -> float:
        found = expected_auroc(study_of(public, patients, epsilon), clinics)
        assert found is not None
        return found.auroc

    assert expected(20, 1.0) < expected(200, 1.0) < expected(5000, 1.0)
    assert expected(100, 0.5) < expected(100, 8.0)
    assert expected(100, 1.0, 1) < expected(100, 1.0, 50)
    # Fisher's own two classes are √(|h|² / d) = 1.5 apart.
    assert expected(100_000, 8.0) == pytest.approx(0.856, abs=0.01)


def rounds_of(public: Path, patients: int, epsilon: float, **federation: object) -> StudyProtocol:
    content = {
        "model": {"backbone": "simple_cnn", "neck": 16, "weights": str(public), "train": "head"},
        "federation": federation,
        "privacy": {"unit": "patient", "epsilon": epsilon, "patients": patients},
    }
    return seal(resolve(StudyProtocol.model_validate(content))[0])


@pytest.mark.parametrize("federation", [{}, {"start": "one_round"}])
def test_rounds_promise_more_with_more_patients_epsilon_and_clinics(
    public: Path, federation: dict[str, object]
) -> None:
    def expected(patients: int, epsilon: float, clinics: int = 3) -> float:
        found = expected_auroc(rounds_of(public, patients, epsilon, **federation), clinics)
        assert found is not None
        return found.auroc

    assert 0.5 < expected(20, 1.0) < expected(200, 1.0) < expected(5000, 1.0)
    assert expected(100, 0.5) < expected(100, 8.0)
    assert expected(100, 1.0, 1) < expected(100, 1.0, 50)
    assert expected(100_000, 8.0) == pytest.approx(0.856, abs=0.01)
    with pytest.raises(StudyError, match=r"3 patients a clinic .* at ε 0.1 allow nothing: .* AUROC of 0\.[45]\d"):
        require_useful(rounds_of(public, 3, 0.1, **federation), 3)


def test_nothing_is_said_of_steps_that_nobody_knows(public: Path) -> None:
    few = rounds_of(public, 3, 0.1)
    for section, changes in (
        ("training", {"optimizer": "adam"}),
        ("privacy", {"steps": 3}),
        ("privacy", {"sampling_rate": 0.5}),
        ("federation", {"algorithm": "fedadam"}),
        ("model", {"train": "affine"}),
    ):
        assert expected_auroc(few.with_changes(section, **changes), 3) is None


def test_too_few_patients_are_refused_in_a_line_with_what_is_to_be_expected(public: Path) -> None:
    require_useful(study_of(public, 5000, 3.0), 3)
    with pytest.raises(StudyError, match=r"5 patients a clinic .* at ε 0.5 allow nothing: .* AUROC of 0\.[45]\d"):
        require_useful(study_of(public, 5, 0.5), 3)


def test_nothing_is_said_where_nothing_is_known(public: Path, tmp_path: Path) -> None:
    headless = public_model(neck=16)
    headless.head.weight.data.zero_()
    study = study_of(finished_run(tmp_path / "headless", headless), 5, 0.5)
    assert expected_auroc(study, 3) is None
    require_useful(study, 3)
