"""Studies of one round over virtual clinics in this process: what is asked, what it costs, what is solved."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from melfed.client.config.policy import ClinicPolicy
from melfed.client.ledger.ledger import verify
from melfed.client.privacy.noised_moments import noised_moments
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.kept_moments import delete_moments
from melfed.common import messages
from melfed.common.data.metadata import METADATA_FEATURES
from melfed.common.errors import DeclinedError, QuorumError, RunError, StudyError
from melfed.common.model.classifier import NECK_METADATA_SCALE, trainable_tensors
from melfed.common.moments.noisy_moments import CLASSES
from melfed.common.study.build import build_study_classifier, seal
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import resolve
from melfed.server.results.post_processing import without, write_head
from melfed.server.results.solved import Terms, read_solution, solve_run
from melfed.server.runs.checkpoints import last_checkpoint
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.releases import Releases
from melfed.simulations import run as run_module
from melfed.simulations.engine.engine import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import simulate
from tests.common.runs import finished_run, public_model
from tests.in_process import InProcessGrid, SilentObserver, conduct, federate

NECK = 5


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("public") / "run", public_model(neck=NECK))


def study_of(public: Path, federation: dict[str, object] | None = None, **privacy: object) -> StudyProtocol:
    strength = {} if "noise_multiplier" in privacy else {"epsilon": 8.0}
    content = {
        "name": "one-round",
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "neck": NECK, "weights": str(public)},
        "federation": {"mode": "one_round", **(federation or {})},
        "privacy": {"unit": "patient", **strength, **privacy},
    }
    return resolve(StudyProtocol.model_validate(content))[0]


def grid_of(
    study: StudyProtocol,
    virtual: VirtualClinics,
    folder: RunFolder,
    policies: dict[str, ClinicPolicy] | None = None,
) -> InProcessGrid:
    return InProcessGrid(Simulation(study, virtual.clinics, folder.ledgers, policies or {}))


def run(grid: InProcessGrid, study: StudyProtocol, folder: RunFolder) -> Outcome:
    return conduct(grid, study, folder, trainable_tensors(build_study_classifier(study)))


def asked(grid: InProcessGrid) -> Counter[str]:
    return Counter(message.metadata.message_type for message in grid.traffic)


@pytest.fixture
def study(public: Path) -> StudyProtocol:
    return seal(study_of(public))


@pytest.fixture
def folder(study: StudyProtocol, tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", study)


def test_a_clinic_is_asked_two_questions_and_charged_what_was_planned(
    study: StudyProtocol, phantom_clinics: VirtualClinics, folder: RunFolder
) -> None:
    grid = grid_of(study, phantom_clinics, folder)
    outcome = run(grid, study, folder)
    plan, clinics = plan_of(study), len(phantom_clinics.clinics)
    questions = asked(grid)
    assert (questions[messages.SUMMARISE], questions[messages.EVALUATE]) == (clinics, clinics)
    assert questions[messages.TRAIN] == 0
    assert plan.moments is not None
    for path in folder.ledgers.glob("*.jsonl"):
        reserved = [row for row in verify(path).rows if row.status == "reserved"]
        assert [row.purpose for row in reserved] == ["counts", "moments", "evaluation"]
        assert reserved[1].noise_multiplier == plan.moments.noise_multiplier
        assert reserved[-1].epsilon is not None
        assert reserved[-1].epsilon <= 8.0
    assert all(account.epsilon == pytest.approx(plan.epsilon) for account in outcome.accounts.values())


def test_the_model_is_the_head_of_the_kept_releases(
    study: StudyProtocol, phantom_clinics: VirtualClinics, folder: RunFolder
) -> None:
    outcome = run(grid_of(study, phantom_clinics, folder), study, folder)
    releases = Releases(folder.releases, study.digest).kept()
    known = trainable_tensors(build_study_classifier(study))["head.weight"][0]
    assert known.any()
    solution = solve_run(study, releases, public=tuple(known.astype(float).tolist()))
    assert read_solution(folder).public == solution.public
    assert list(releases) == sorted(clinic.name for clinic in phantom_clinics.clinics)
    for name, tensor in solution.tensors().items():
        assert np.array_equal(outcome.models[""][name], tensor)
    assert read_solution(folder).clinics == tuple(releases)
    assert not [path for path in folder.releases.iterdir() if path.stat().st_mode & 0o077]


def test_without_noise_it_is_the_head_of_all_images_together(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    from melfed.client.privacy.noise import NoiseSource

    study = seal(study_of(public, noise_multiplier=0.0, evaluation="public"))
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, phantom_clinics, folder)
    run(grid, study, folder)
    released = Releases(folder.releases, study.digest).kept()
    worker = next(iter(grid.workers.values()))
    images = worker.images("train")
    features = worker._features(worker._same(study.digest), "train")
    assert features.shape == (len(images), NECK)
    own = noised_moments({"train": (features, images.targets, worker._units("train"))}, 0.0, NoiseSource())["train"]
    for name in CLASSES:
        assert np.array_equal(getattr(released[worker.clinic].train, name), getattr(own, name))


def test_a_run_that_is_taken_up_asks_nobody_twice(
    study: StudyProtocol, phantom_clinics: VirtualClinics, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = grid_of(study, phantom_clinics, folder)
    declining = next(iter(grid.workers))
    worker = grid.workers[declining]
    monkeypatch.setattr(worker, "summarise", lambda *_: (_ for _ in ()).throw(DeclinedError("not today")))
    with pytest.raises(QuorumError, match="2 of 3 clinics answered"):
        run(grid, study, folder)
    assert last_checkpoint(folder.checkpoints, study.digest).round == 0  # type: ignore[union-attr]
    monkeypatch.undo()
    kept = Releases(folder.releases, study.digest).kept()
    assert worker.clinic not in kept
    again = grid_of(study, phantom_clinics, folder)
    run(again, study, folder)
    assert asked(again)[messages.SUMMARISE] == 1
    after = Releases(folder.releases, study.digest).kept()
    for name, release in kept.items():
        assert np.array_equal(after[name].train.positives, release.train.positives)
    # The server's copies are lost: clinics give the same ones, and nothing is charged.
    before = {path.name: len(verify(path).rows) for path in folder.ledgers.glob("*.jsonl")}
    for path in folder.releases.iterdir():
        path.unlink()
    other = grid_of(study, phantom_clinics, folder)
    for node, clinic in other.workers.items():
        repeated = clinic.summarise(study.digest, folder.identity)
        assert np.array_equal(repeated["train"].positives, after[clinic.clinic].train.positives), node
    assert {path.name: len(verify(path).rows) for path in folder.ledgers.glob("*.jsonl")} == before


def test_what_a_clinic_has_deleted_it_releases_no_second_time(
    study: StudyProtocol, phantom_clinics: VirtualClinics, folder: RunFolder
) -> None:
    grid = grid_of(study, phantom_clinics, folder)
    run(grid, study, folder)
    worker = next(iter(grid.workers.values()))
    ledger = folder.ledgers / f"{worker.clinic}.jsonl"
    assert delete_moments(ledger, folder.identity)
    assert not delete_moments(ledger, folder.identity)
    with pytest.raises(DeclinedError, match="released once and deleted"):
        worker.summarise(study.digest, folder.identity)


def test_a_clinic_that_cannot_pay_for_both_questions_begins_neither(
    study: StudyProtocol, phantom_clinics: VirtualClinics, folder: RunFolder
) -> None:
    policy = ClinicPolicy(epsilon=8.0, noise_multiplier=0.1, studies="any")
    poor = phantom_clinics.clinics[0].name
    spent = next(
        w for w in grid_of(study, phantom_clinics, folder, {poor: policy}).workers.values() if w.clinic == poor
    )
    spent.describe("another run")
    spent.summarise(study.digest, "another run")
    with pytest.raises(QuorumError, match="2 of 3"):
        run(grid_of(study, phantom_clinics, folder, {poor: policy}), study, folder)
    purposes = [row.purpose for row in verify(folder.ledgers / f"{poor}.jsonl").rows if row.status == "reserved"]
    assert purposes == ["counts", "moments"], "what the other run was charged, and nothing of this one"


def test_neither_kind_of_study_answers_the_other_kinds_question(
    study: StudyProtocol, phantom_clinics: VirtualClinics, folder: RunFolder
) -> None:
    worker = next(iter(grid_of(study, phantom_clinics, folder).workers.values()))
    with pytest.raises(StudyError, match="trains nothing here"):
        worker.train({}, 1, study.digest, "run")
    rounds = study.with_changes("federation", mode="federated")
    other = next(iter(grid_of(rounds, phantom_clinics, folder).workers.values()))
    with pytest.raises(StudyError, match="asks for no moments"):
        other.summarise(rounds.digest, "run")


def test_a_whole_run_has_a_report(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    summary = simulate(study_of(public), phantom_clinics, tmp_path / "run", SilentObserver())
    assert summary.mode == "one_round"
    assert summary.privacy is not None
    assert summary.privacy.released[0].quantity.startswith(f"Moments of {NECK} features")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "One round" in page
    assert "one Gaussian mechanism" in page


def test_metadata_are_features_of_the_release(public: Path, phantom_clinics: VirtualClinics, tmp_path: Path) -> None:
    study = seal(study_of(public).with_changes("model", metadata=True))
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, phantom_clinics, folder)
    outcome = run(grid, study, folder)
    assert study.head_features == NECK + METADATA_FEATURES
    assert outcome.models[""]["head.weight"].shape == (1, study.head_features)
    release = next(iter(Releases(folder.releases, study.digest).kept().values()))
    assert release.train.features == study.head_features
    worker = next(iter(grid.workers.values()))
    features = worker._features(worker._same(study.digest), "train")
    images = worker.images("train")
    assert np.allclose(features[:, NECK:], NECK_METADATA_SCALE * images.metadata)
    # Its clinics score with what they released.
    assert outcome.test


def started(public: Path, rounds: int = 2, **privacy: object) -> StudyProtocol:
    """Rounds of training that begin at a solved head."""
    return seal(study_of(public, {"mode": "federated", "start": "one_round", "rounds": rounds}, **privacy))


def test_rounds_begin_at_a_solved_head_for_one_epsilon(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = started(public)
    folder = RunFolder.create(tmp_path / "run", study)
    grid = grid_of(study, phantom_clinics, folder)
    outcome = run(grid, study, folder)
    plan, clinics = plan_of(study), len(phantom_clinics.clinics)
    questions = asked(grid)
    assert [questions[kind] for kind in (messages.SUMMARISE, messages.TRAIN, messages.EVALUATE)] == [
        clinics,
        2 * clinics,
        clinics,
    ]
    assert plan.moments is not None
    for path in folder.ledgers.glob("*.jsonl"):
        reserved = [row for row in verify(path).rows if row.status == "reserved"]
        assert [row.purpose for row in reserved] == ["counts", "moments", "training", "training", "evaluation"]
        sigmas = [row.noise_multiplier for row in reserved]
        assert sigmas[1] == plan.moments.noise_multiplier
        assert sigmas[2] == sigmas[3] == plan.training.noise_multiplier
        assert reserved[-1].epsilon is not None
        assert reserved[-1].epsilon <= 8.0
    assert all(account.epsilon == pytest.approx(plan.epsilon) for account in outcome.accounts.values())
    assert read_solution(folder).clinics == tuple(Releases(folder.releases, study.digest).kept())


def test_a_clinic_that_cannot_pay_for_moments_and_rounds_begins_neither(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    study = started(public)
    folder = RunFolder.create(tmp_path / "run", study)
    poor = phantom_clinics.clinics[0].name
    enough = plan_of(study).epsilon
    policy = ClinicPolicy(epsilon=0.99 * enough, noise_multiplier=0.1, studies="any")
    with pytest.raises(QuorumError, match="2 of 3"):
        run(grid_of(study, phantom_clinics, folder, {poor: policy}), study, folder)
    assert not (folder.ledgers / f"{poor}.jsonl").exists(), "it has charged nothing"


def test_what_rounds_are_made_of_is_not_forgotten(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    summary = simulate(started(public), phantom_clinics, tmp_path / "run", SilentObserver())
    assert summary.privacy is not None
    quantities = [row.quantity for row in summary.privacy.released]
    assert quantities[0].startswith(f"Moments of {NECK} features")
    assert quantities[1].startswith("Model updates: 2 rounds")
    folder = RunFolder.open(tmp_path / "run")
    with pytest.raises(RunError, match="updates are in the model for good"):
        without(folder, phantom_clinics.clinics[0].name, "nobody")
    # Other heads of the start are algebra as ever.
    assert write_head(folder, tmp_path / "head", Terms.of(folder.study())).clinics == read_solution(folder).clinics


def stated(public: Path, **changes: dict[str, object] | None) -> StudyProtocol:
    content: dict[str, object] = {
        "model": {"backbone": "simple_cnn", "neck": NECK, "weights": str(public)},
        "federation": {"mode": "one_round"},
        "privacy": {"unit": "patient", "epsilon": 8.0},
    }
    for section, values in changes.items():
        content[section] = values and {**content[section], **values}  # type: ignore[dict-item]
    return resolve(StudyProtocol.model_validate(content))[0]


BEFORE_ROUNDS: dict[str, dict[str, object] | None] = {"federation": {"mode": "federated", "start": "one_round"}}


def test_what_cannot_be_one_round_is_refused_in_a_line(public: Path) -> None:
    wrong: dict[str, dict[str, dict[str, object] | None]] = {
        "needs the public features of a neck": {"model": {"neck": None}},
        "is for private studies": {"privacy": None},
        "federation.rounds is 5, and federation.mode one_round has 1": {"federation": {"rounds": 5}},
        "model.train is affine": {"model": {"train": "affine"}},
        "privacy.steps 1, not 2": {"privacy": {"recipe": "manual", "steps": 2}},
        "start one_round needs the public features": {**BEFORE_ROUNDS, "model": {"neck": None}},
        "start one_round is for private studies": {**BEFORE_ROUNDS, "privacy": None},
        "sampling_rate is 0.5, and federation.start one_round has 1.0": {
            **BEFORE_ROUNDS,
            "privacy": {"sampling_rate": 0.5},
        },
        "train is full, and federation.start one_round has head": {**BEFORE_ROUNDS, "model": {"train": "full"}},
    }
    wrong["privacy.steps 1, not 2"] |= {"federation": {"rounds": 1}, "model": {"train": "head"}}
    for words, changes in wrong.items():
        with pytest.raises((ValueError, StudyError), match=words):
            stated(public, **changes)
