"""What a clinic agrees to, in words."""

from pathlib import Path

import pytest

from melfed.client.approval.approvals import effective_policy
from melfed.client.cli.agreement import agreement
from melfed.client.privacy.plan import plan_of
from melfed.common.study.build import seal
from melfed.common.study.protocol import ModelSpec, PrivacySpec, StudyProtocol
from tests.client.clinics import a_clinic
from tests.common.runs import finished_run, public_model


def a_study(**sections: object) -> StudyProtocol:
    model = ModelSpec(backbone="simple_cnn", pretrained=False)
    return StudyProtocol(**{"name": "demo", "model": model, **sections})


def words(config, study: StudyProtocol) -> tuple[str, str | None]:
    agreed = agreement(config, effective_policy(config), study)
    return "\n".join(": ".join(line) for line in agreed.lines), agreed.objection


def test_the_words_say_what_is_agreed_to(tmp_path: Path) -> None:
    privacy = PrivacySpec(unit="patient", noise_multiplier=40.0, sampling_rate=1.0, steps=1, recipe="manual")
    study = a_study(privacy=privacy).with_changes("federation", rounds=2, validate_every=2)
    said, objection = words(a_clinic(tmp_path), study)
    for part in (
        study.digest,
        "rounds: up to 2, each of 1 step and 900 s at most",
        "protects: every patient: all images of a patient together",
        "σ: 40 in each step, clipping norm C = ",
        ", all patients (q = 1)\n",
        " in the one evaluation\n",
        "δ = 1e-05",
        "once, histograms of the scores on validation and test images, with noise",
        "once a run, numbers of patients and of those with a positive image, with noise of ",
        "starts from: random values",
    ):
        assert part in said
    assert objection is None
    several = study.with_changes("federation", validate_every=1).with_changes("privacy", sampling_rate=0.5)
    said, _ = words(a_clinic(tmp_path), several)
    assert ", 0.5 of the patients in each (q)\n" in said
    assert " in each of 2 evaluations\n" in said


def test_the_words_say_what_subgroups_and_a_model_of_its_own_cost_and_tell(tmp_path: Path) -> None:
    privacy = PrivacySpec(unit="patient", noise_multiplier=40.0, recipe="manual")
    asked = {"subgroups": ("age", "sex", "source"), "local_baseline": True}
    study = a_study(privacy=privacy).with_changes("federation", rounds=2).with_changes("evaluation", **asked)
    said, objection = words(a_clinic(tmp_path), study)
    plan = plan_of(study)
    assert plan.subgroups is not None
    assert plan.baseline is not None
    for part in (
        f"σ: {plan.subgroups.noise_multiplier:.4g} in the one release of test patients by age, sex\n",
        f"σ: {plan.baseline.noise_multiplier:.4g} in what is told of this clinic's own model, which takes as many",
        "leaves here: once, histograms of the scores on test images by age, sex, with noise\n",
        "leaves here: once, a histogram of the scores of a model trained here alone, on test images, with noise\n",
    ):
        assert part in said
    assert objection is None
    public = study.with_changes("privacy", evaluation="public")
    _, objection = words(a_clinic(tmp_path / "other", policy={"epsilon": 100.0, "public_evaluation": True}), public)
    assert objection is not None
    assert "it tells scores by age, sex without noise" in objection


def test_the_words_say_that_moments_leave_before_rounds(tmp_path: Path) -> None:
    model = ModelSpec(backbone="simple_cnn", neck=4, train="head", metadata=True)
    privacy = PrivacySpec(unit="patient", noise_multiplier=40.0, recipe="manual", evaluation="public")
    study = a_study(privacy=privacy, model=model).with_changes("federation", rounds=2, start="one_round")
    said, _ = words(a_clinic(tmp_path), study)
    plan = plan_of(study)
    assert plan.moments is not None
    for part in (
        "rounds: up to 2 after one release of moments, from which their start is solved, each of 1 step",
        f"σ: {plan.moments.noise_multiplier:.4g} in the one release of moments, of all patients\n",
        "σ: 40 in each step",
        f"leaves here: once a run, moments of {study.head_features} features of the training and validation images, "
        "age, sex and site among them (a class each",
        "leaves here: after each round, the new values of what trains",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("delta", "column", "expected"),
    [
        (1e-5, "patient_id", ["of them here: 40 patients in this clinic's table, about 28 of them to train on"]),
        (0.04, "patient_id", ["about 28 of them", "delta 0.04 is not below 1/N for N = 28 units"]),
        (1e-5, "lesion_id", ["of them here: 80 of 80 images do not name theirs, and are left out"]),
    ],
)
def test_the_words_hold_delta_against_the_clinics_patients(
    tmp_path: Path, delta: float, column: str, expected: list[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(80):
        (folder / f"{number}.png").touch()
    rows = [f"{number}.png,{number % 2},p{number % 40}" for number in range(80)]
    (folder / "table.csv").write_text("\n".join([f"image,target,{column}", *rows]) + "\n")
    spec = PrivacySpec(unit="patient", noise_multiplier=2.0, delta=delta, sampling_rate=1.0, steps=1, recipe="manual")
    said, _ = words(
        a_clinic(tmp_path, data={"folder": str(folder)}),
        a_study(privacy=spec).with_changes("federation", rounds=2, validate_every=2),
    )
    for part in expected:
        assert part in said
    assert ("is not below" in said) == (delta > 0.01)


def test_the_words_say_what_is_not_protected_and_what_the_policy_says_to_it(tmp_path: Path) -> None:
    said, objection = words(a_clinic(tmp_path), a_study())
    assert "protects: nobody: no noise is added" in said
    assert "numbers of images, positives and groups, exact" in said
    assert "no privacy section" in str(objection)
    # Whether it is approved is not what the objection is about.
    assert "not approved" not in str(objection)


def test_tensors_that_may_not_leave_are_an_objection(tmp_path: Path) -> None:
    policy = {"epsilon": 3.0, "non_private": True, "tensors": ["head.*"]}
    config = a_clinic(tmp_path, policy=policy)
    assert "tensors may not leave this clinic" in str(words(config, a_study())[1])
    finished_run(config.weights, public_model())
    head = seal(a_study(model=ModelSpec(backbone="simple_cnn", train="head")), config.weights)
    assert words(config, head)[1] is None
    absent = head.with_changes("model", weights_sha256="a" * 64)
    assert "cannot be told before the weights are here" in str(words(config, absent)[1])
