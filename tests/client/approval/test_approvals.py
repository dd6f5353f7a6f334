"""Approved studies: by file or whole digest, revoked by a prefix, and counted from the next request on."""

import json
import stat
from pathlib import Path

import pytest

from melfed.client.approval.approvals import Approval, approve, approved, approved_study, effective_policy, revoke
from melfed.client.config.policy import check_study
from melfed.common.audit.log import read_log, verify_log
from melfed.common.errors import DeclinedError, PolicyError, StudyError, WeightsError
from melfed.common.study.build import seal
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import DataSpec, ModelSpec, PhantomSection, PrivacySpec, StudyProtocol
from tests.client.clinics import a_clinic, clinic_text
from tests.common.runs import finished_run, public_model

DIGEST = "0123456789abcdef" * 4
OTHER = "0123" + "f" * 60


def a_study(**sections: object) -> StudyProtocol:
    model = ModelSpec(backbone="simple_cnn", pretrained=False)
    return StudyProtocol(**{"name": "demo", "model": model, **sections})


def written(folder: Path, study: StudyProtocol, name: str = "study.yaml") -> Path:
    path = folder / name
    path.write_text(study_yaml(study), encoding="utf-8")
    return path


def events(config) -> list[tuple[object, object, object, object]]:
    return [(row["id"], row["study"], row["digest"], row["by"]) for row in read_log(config.audit_log)]


def test_a_study_trains_from_its_approval_to_its_revocation(tmp_path: Path) -> None:
    config, study = a_clinic(tmp_path), a_study(privacy=PrivacySpec(unit="patient", noise_multiplier=1.0))
    study = study.with_changes("privacy", recipe="manual")
    with pytest.raises(DeclinedError, match="not approved here"):
        check_study(effective_policy(config), study, 1.0)
    approval = approve(config, written(tmp_path, study), "Dr. A. Ärztin")
    assert (approval.digest, approval.study, approval.by) == (study.digest, "demo", "Dr. A. Ärztin")
    check_study(effective_policy(config), study, 1.0)
    kept = approved_study(config, study.digest)
    assert kept is not None
    assert kept.canonical() == study.canonical()
    assert revoke(config, study.digest[:8], "IT") == approval
    with pytest.raises(DeclinedError, match="not approved here"):
        check_study(effective_policy(config), study, 1.0)
    assert (approved(config), list(config.approvals.iterdir())) == ((), [])
    assert events(config) == [
        (1003, "demo", study.digest, "Dr. A. Ärztin"),
        (1004, "demo", study.digest, "IT"),
    ]
    assert verify_log(config.audit_log).error is None


def test_a_study_that_was_edited_is_declined_with_the_digest_that_is_approved(tmp_path: Path) -> None:
    config, study = a_clinic(tmp_path), a_study(privacy=PrivacySpec(unit="patient", noise_multiplier=1.0))
    study = study.with_changes("privacy", recipe="manual")
    approve(config, written(tmp_path, study), "it")
    edited = study.with_changes("federation", rounds=7)
    with pytest.raises(DeclinedError) as declined:
        check_study(effective_policy(config), edited, 1.0)
    assert f"digest {edited.digest}); of this name {study.digest} is, so it was changed after that" in str(
        declined.value
    )
    assert len(str(declined.value)) < 300, "it stays one line on its way"
    other = edited.model_copy(update={"name": "another"})
    with pytest.raises(DeclinedError, match="not approved here") as declined:
        check_study(effective_policy(config), other, 1.0)
    assert study.digest not in str(declined.value)


def test_a_clinic_that_does_not_tell_what_it_approved_does_not_tell_it_so_either(tmp_path: Path) -> None:
    config, study = a_clinic(tmp_path, tell={"approved": False}), a_study(privacy=None)
    approve(config, written(tmp_path, study), "it")
    with pytest.raises(DeclinedError, match="not approved here") as declined:
        check_study(effective_policy(config), study.with_changes("federation", rounds=7), 1.0)
    assert study.digest not in str(declined.value)


def test_a_digest_is_approved_whole_and_in_any_case(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    assert approve(config, DIGEST.upper(), "IT") == approved(config)[0]
    assert effective_policy(config).studies == (DIGEST,)
    assert approved_study(config, DIGEST) is None
    for part in (DIGEST[:63], DIGEST[:8]):
        with pytest.raises(StudyError, match="a part of a digest; give all 64 digits"):
            approve(config, part, "IT")
    with pytest.raises(
        StudyError, match=r"nothing\.yaml: no such file; give the study's YAML file, or all 64 digits of its digest"
    ):
        approve(config, "nothing.yaml", "IT")
    assert len(approved(config)) == 1


def test_approvals_are_private_files_and_the_oldest_comes_first(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    approve(config, OTHER, "IT")
    approve(config, written(tmp_path, a_study()), "IT")
    files = sorted(config.approvals.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE(config.approvals.stat().st_mode) == stat.S_IMODE(config.worker_state.stat().st_mode) == 0o700
    for number, digest in enumerate((DIGEST, OTHER, a_study().digest)):
        earlier = Approval(digest=digest, by="IT", time=f"2030-01-0{3 - number}T00:00:00+00:00")
        (config.approvals / f"{digest}.json").write_text(earlier.model_dump_json())
    assert [approval.digest for approval in approved(config)] == [a_study().digest, OTHER, DIGEST]


def test_a_prefix_revokes_one_study_or_none(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    for digest in (DIGEST, OTHER):
        approve(config, digest, "IT")
    with pytest.raises(PolicyError, match="2 approved studies begin so"):
        revoke(config, "0123", "IT")
    with pytest.raises(PolicyError, match="no approved study begins so"):
        revoke(config, "9999", "IT")
    for wrong in ("012", "", "../x", "0123/"):
        with pytest.raises(PolicyError, match="give at least four digits"):
            revoke(config, wrong, "IT")
    assert revoke(config, OTHER[:5], "IT").digest == OTHER
    assert [approval.digest for approval in approved(config)] == [DIGEST]


def test_what_the_file_approves_is_revoked_in_the_file(tmp_path: Path) -> None:
    config = a_clinic(tmp_path, policy={"epsilon": 3.0, "studies": [DIGEST]})
    approve(config, DIGEST, "IT")
    assert effective_policy(config).studies == (DIGEST,)
    with pytest.raises(PolicyError, match=r"policy.studies lists 0123456789abcdef…"):
        revoke(config, DIGEST, "IT")
    config.path.write_text(clinic_text(policy={"epsilon": 3.0, "studies": "any"}))
    assert effective_policy(config).studies == "any"
    with pytest.raises(PolicyError, match=r"policy.studies is any, so nothing can be revoked"):
        revoke(config, DIGEST, "IT")
    config.path.write_text(clinic_text())
    assert revoke(config, DIGEST, "IT").digest == DIGEST


def test_the_policy_is_read_anew_and_a_broken_one_allows_nothing(tmp_path: Path) -> None:
    config = a_clinic(tmp_path, policy={"epsilon": 3.0, "studies": [DIGEST]})
    config.path.write_text(clinic_text(policy={"epsilon": 1.0}))
    policy = effective_policy(config)
    assert (policy.epsilon, policy.studies) == (1.0, ())
    config.path.write_text("policy: {epsilon: [}")
    with pytest.raises(PolicyError):
        effective_policy(config)


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"digest": OTHER, "by": "x", "time": "now"})])
def test_a_damaged_approval_approves_nothing(tmp_path: Path, content: str) -> None:
    config = a_clinic(tmp_path)
    approve(config, DIGEST, "IT")
    (config.approvals / f"{DIGEST}.json").write_text(content)
    with pytest.raises(PolicyError, match=rf"{DIGEST}.json: (is no approval|approves another study)"):
        effective_policy(config)


def test_what_a_file_leaves_open_is_fixed_as_the_coordinator_fixes_it(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    run = finished_run(config.weights, public_model())
    model = ModelSpec(backbone="simple_cnn", train="head", weights="/on/the/coordinators/machine")
    study = a_study(model=model)
    sealed = seal(study.with_changes("model", weights=str(run)))
    assert approve(config, written(tmp_path, study), "IT").digest == sealed.digest != study.digest
    # With a digest stated, nothing is looked for.
    other = study.with_changes("model", weights_sha256="a" * 64)
    assert approve(config, written(tmp_path, other), "IT").digest == other.digest
    (config.weights / "model.safetensors").unlink()
    with pytest.raises(WeightsError):
        approve(config, written(tmp_path, study), "IT")


def test_the_folder_of_a_run_stands_for_its_study(tmp_path: Path) -> None:
    config = a_clinic(tmp_path / "kit")
    written(tmp_path, a_study())
    assert approve(config, tmp_path, "IT").digest == a_study().digest


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (a_study().with_changes("federation", mode="central"), "federation.mode is central"),
        (a_study(data=DataSpec(phantom=PhantomSection())), "synthetic lesions are for simulations alone"),
    ],
)
def test_what_is_for_simulations_alone_is_not_approved(tmp_path: Path, study: StudyProtocol, said: str) -> None:
    config = a_clinic(tmp_path)
    with pytest.raises(StudyError, match=said):
        approve(config, written(tmp_path, study), "IT")
    assert approved(config) == ()
