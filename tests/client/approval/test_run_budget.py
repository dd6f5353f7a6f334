"""What policy and approvals leave to a study: at a worker, before anything is computed or anybody is charged."""

import json
from pathlib import Path

import pytest

from melfed.client.approval.approvals import Approval, approve, approved, effective_policy
from melfed.client.approval.run_budget import ApprovedPolicy, StudyTerms, allowance, epsilon_of_runs, limits, terms_of
from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.policy import ClinicPolicy
from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.guard import Guard, Protection
from melfed.client.worker.worker import ClinicWorker
from melfed.common.errors import DeclinedError
from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.clinics import a_clinic, clinic_text
from tests.client.guards import Work, request
from tests.client.ledger.ledgers import too_little
from tests.client.private_clinic import charges, train
from tests.client.small import CPU, small_model, small_study

PRIVATE = {"unit": "patient", "noise_multiplier": 2.0, "recipe": "manual"}
STUDY = small_study(privacy=PRIVATE)
WHOLE = plan_of(STUDY).epsilon


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return a_clinic(tmp_path / "kit", policy={"epsilon": 100.0})


@pytest.fixture
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


@pytest.fixture
def tensors() -> Tensors:
    return trainable_tensors(small_model(STUDY))


def written(config: ClinicConfig, study: StudyProtocol = STUDY) -> Path:
    path = config.folder / "study.yaml"
    path.write_text(study_yaml(study), encoding="utf-8")
    return path


def worker(config: ClinicConfig, north: ClinicData, study: StudyProtocol = STUDY) -> ClinicWorker:
    protection = Protection(config.folder / "north.jsonl", effective_policy(config))
    return ClinicWorker(north, study, None, CPU, protection=protection)


def a_run(here: ClinicWorker, tensors: Tensors, run: str) -> None:
    here.describe(run)
    for number in (1, 2):
        train(here, tensors, number, run)
    here.evaluate(tensors, here.study.digest, run)


# What is allowed.


def test_an_approval_states_runs_and_epsilon_of_them_all(config: ClinicConfig) -> None:
    one = approve(config, written(config), "IT")
    assert (one.runs, one.epsilon) == (1, WHOLE)
    three = approve(config, written(config), "IT", runs=3)
    assert (three.runs, three.epsilon) == (3, epsilon_of_runs(plan_of(STUDY), 3))
    assert WHOLE < three.epsilon < 3 * WHOLE, "as the accountant composes them"
    stated = approve(config, written(config), "IT", runs=3, epsilon=1.25)
    assert approved(config) == (stated,)
    assert json.loads((config.approvals / f"{STUDY.digest}.json").read_text())["epsilon"] == 1.25
    assert allowance(effective_policy(config), STUDY).epsilon == 1.25


def test_an_old_approval_is_of_one_run_at_the_plans_epsilon(config: ClinicConfig) -> None:
    approve(config, written(config), "IT", runs=5)
    old = {"digest": STUDY.digest, "study": "small", "by": "IT", "time": "2026-01-01T00:00:00+00:00"}
    (config.approvals / f"{STUDY.digest}.json").write_text(json.dumps(old))
    (read,) = approved(config)
    assert (read.runs, read.epsilon) == (1, None)
    allowed = allowance(effective_policy(config), STUDY)
    assert (allowed.runs, allowed.epsilon, allowed.delta) == (1, WHOLE, 1e-5)


@pytest.mark.parametrize("wrong", [{"runs": 0}, {"runs": -1}, {"runs": 1.5}, {"epsilon": 0}, {"epsilon": float("nan")}])
def test_an_approval_of_nothing_is_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        Approval(digest="a" * 64, by="IT", time="now", **wrong)


def test_what_the_file_lets_in_follows_the_policys_runs_and_an_approval_its_own(config: ClinicConfig) -> None:
    config.path.write_text(clinic_text(policy={"epsilon": 100.0, "studies": "any", "runs": 4}))
    assert terms_of(effective_policy(config), STUDY.digest) == StudyTerms(runs=4)
    assert allowance(effective_policy(config), STUDY).epsilon == epsilon_of_runs(plan_of(STUDY), 4)
    approve(config, written(config), "IT", runs=2)
    assert terms_of(effective_policy(config), STUDY.digest).runs == 2
    assert terms_of(effective_policy(config), "b" * 64).runs == 4
    config.path.write_text(clinic_text(policy={"epsilon": 100.0, "studies": ["b" * 64]}))
    assert terms_of(effective_policy(config), "b" * 64) == StudyTerms(runs=1)


def test_no_file_can_state_what_an_approval_states(config: ClinicConfig) -> None:
    from melfed.common.errors import PolicyError

    config.path.write_text(clinic_text(policy={"epsilon": 100.0, "terms": {}}))
    with pytest.raises(PolicyError, match="terms"):
        effective_policy(config)
    assert isinstance(ApprovedPolicy(epsilon=1.0), ClinicPolicy)


def test_a_simulation_without_a_policy_is_bound_by_its_own_epsilon_alone() -> None:
    whole = limits(None, STUDY)
    assert (whole.study, whole.plan) == (None, ())


# At the worker.


def test_an_approved_study_runs_as_often_as_was_approved(
    config: ClinicConfig, north: ClinicData, tensors: Tensors
) -> None:
    approve(config, written(config), "IT")
    here = worker(config, north)
    a_run(here, tensors, "first")
    before = (config.folder / "north.jsonl").read_bytes()
    for ask in (
        lambda: here.describe("second"),
        lambda: train(here, tensors, 1, "second"),
        lambda: here.evaluate(tensors, STUDY.digest, "second"),
    ):
        with pytest.raises(DeclinedError, match="every run that this clinic has approved of this study has begun"):
            ask()
    assert (config.folder / "north.jsonl").read_bytes() == before
    here.describe("first")  # a run that is resumed is the same run
    approve(config, written(config), "IT", runs=2)
    here.allow(effective_policy(config))
    a_run(here, tensors, "second")
    spent = here.account().epsilon
    assert spent == pytest.approx(epsilon_of_runs(plan_of(STUDY), 2))
    assert spent <= approved(config)[0].epsilon


def test_a_clinic_that_cannot_end_a_run_declines_before_its_first_round_and_is_charged_nothing(
    config: ClinicConfig, north: ClinicData, tensors: Tensors
) -> None:
    """As a clinic with ε 0.295 left that joined a run of 0.6."""
    study = small_study(privacy={"unit": "patient", "epsilon": 0.6, "recipe": "manual"})
    guard = Guard(study, Protection(config.folder / "north.jsonl", ClinicPolicy(epsilon=9.0, studies="any")), north)
    guard.pay("training", request(run="earlier"), Work())
    spent = guard.account()[0]
    approve(config, written(config, study), "IT", runs=2)
    config.path.write_text(clinic_text(policy={"epsilon": max(0.6, spent + 0.295)}))
    here = worker(config, north, study)
    before = charges(config.folder)
    for ask in (lambda: here.describe("run"), lambda: train(here, tensors, 1)):
        with too_little("is left; this needs") as caught:
            ask()
        assert "whole run" in str(caught.value) or "all that a run of this study still asks" in str(caught.value)
    assert charges(config.folder) == before


def test_another_studys_charges_after_a_run_has_begun_are_noticed_when_it_is_described_again(
    config: ClinicConfig, north: ClinicData, tensors: Tensors
) -> None:
    config.path.write_text(clinic_text(policy={"epsilon": WHOLE * 1.2, "studies": "any"}))
    here = worker(config, north)
    here.describe("run")
    train(here, tensors, 1)
    here.describe("run")
    other = small_study(name="other", privacy={**PRIVATE, "noise_multiplier": 1.0})
    Guard(other, Protection(config.folder / "north.jsonl"), north).pay("training", request(), Work())
    with too_little():
        here.describe("run")
