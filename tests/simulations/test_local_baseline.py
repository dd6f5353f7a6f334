"""Each clinic's own model beside the federated one: what it is, that it changes nothing else, and what it costs."""

from pathlib import Path

import numpy as np
import pytest

from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.plan import plan_of
from melfed.client.training.kept_state import KeptState
from melfed.client.training.plain import Trainer
from melfed.client.worker.guard import Protection
from melfed.client.worker.worker import ClinicWorker
from melfed.common.errors import StudyError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import NoisyHistogram
from melfed.common.model.classifier import trainable_tensors
from melfed.common.model.inference import score
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.runs.folder import RunFolder
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.private_clinic import charges, study_of
from tests.client.small import CPU, small_study
from tests.in_process import federate_here

ASKED = {"local_baseline": True}
PLAIN = small_study(evaluation=ASKED)
PRIVATE = study_of(epsilon=2.0).with_changes("evaluation", **ASKED)


@pytest.fixture
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


def worker_of(folder: Path, north: ClinicData, study: StudyProtocol) -> ClinicWorker:
    protection = Protection(folder / "north.jsonl") if study.privacy else None
    return ClinicWorker(north, study, None, CPU, protection=protection, states=folder / "states")


def asked(worker: ClinicWorker, model: Tensors, rounds: tuple[int, ...] = (1, 2)) -> dict[str, object]:
    """Evaluate after some rounds, whose models are others than what the clinic has learnt."""
    for number in rounds:
        sent = {name: tensor + np.float32(0.01 * number) for name, tensor in model.items()}
        worker.train(sent, number, worker.study.digest, "run")
    return dict(worker.evaluate(model, worker.study.digest, "run"))


def start_of(study: StudyProtocol) -> Tensors:
    return trainable_tensors(build_study_classifier(study))


def test_it_is_the_model_that_the_clinic_would_have_alone(north: ClinicData, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, north, PLAIN)
    scored = asked(worker, start_of(PLAIN))
    model = build_study_classifier(PLAIN)
    for number in (1, 2):  # a clinic's optimiser begins anew each round, as in the federation
        Trainer(model, PLAIN, CPU).train(north.load("train"), north.name, number)
    images = north.load("test")
    expected = ScoreHistogram.from_scores(score(model, images, 32, CPU), images.targets, images.groups)
    found = scored["local"]
    assert isinstance(found, ScoreHistogram)
    assert np.array_equal(found.positives, expected.positives)
    np.testing.assert_allclose(found.middle, expected.middle, rtol=1e-4, atol=1e-5)
    assert found.to_lists() != scored["test"].to_lists()  # type: ignore[attr-defined]


def test_all_else_is_as_without_it_and_it_never_leaves(north: ClinicData, tmp_path: Path) -> None:
    plain = PLAIN.with_changes("evaluation", local_baseline=False)
    start = start_of(plain)
    with_, without = (worker_of(tmp_path / name, north, study) for name, study in (("a", PLAIN), ("b", plain)))
    one, other = (worker.train(start, 1, worker.study.digest, "run") for worker in (with_, without))
    assert one.tensors.keys() == other.tensors.keys() == start.keys()
    assert all(np.array_equal(one.tensors[name], other.tensors[name]) for name in start)
    assert one.loss == other.loss
    tested = [worker.evaluate(one.tensors, worker.study.digest, "run") for worker in (with_, without)]
    assert set(tested[0]) == {*tested[1], "local"}
    assert all(tested[0][part].to_lists() == tested[1][part].to_lists() for part in tested[1])


def test_a_clinic_that_comes_late_begins_where_the_global_model_began(north: ClinicData, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, north, PLAIN)
    asked(worker, start_of(PLAIN), rounds=(2,))
    model = build_study_classifier(PLAIN)
    Trainer(model, PLAIN, CPU).train(north.load("train"), north.name, 2)
    kept = KeptState(tmp_path / "states", PLAIN.digest).before("run", 3)
    assert kept.keys() == trainable_tensors(model).keys()
    for name, tensor in trainable_tensors(model).items():
        np.testing.assert_allclose(kept[name], tensor, rtol=1e-4, atol=1e-6)


def test_in_a_private_study_its_steps_and_its_histogram_are_noised_and_charged(
    north: ClinicData, tmp_path: Path
) -> None:
    worker, plan = worker_of(tmp_path, north, PRIVATE), plan_of(PRIVATE)
    assert plan.baseline is not None
    scored, again = asked(worker, start_of(PRIVATE)), worker.evaluate(start_of(PRIVATE), PRIVATE.digest, "run")
    expected = [("counts", 0), ("training", 1), ("evaluation", 1), ("training", 2), ("evaluation", 2), ("baseline", 2)]
    assert charges(tmp_path) == expected
    found = scored["local"]
    assert isinstance(found, NoisyHistogram)
    assert found.noise_variance == scored["test"].noise_variance  # type: ignore[attr-defined]
    assert np.array_equal(found.edges, scored["test"].edges)  # type: ignore[attr-defined]
    assert found.to_lists() == again["local"].to_lists(), "what was paid for is given again"
    account = worker.account()
    assert account is not None
    assert 1.98 < account.epsilon <= 2.0
    assert account.epsilon == plan.epsilon


@pytest.mark.parametrize(
    ("federation", "reason"),
    [
        ({"algorithm": "ditto"}, "federation.algorithm ditto keeps state of its own at the clinics"),
        ({"algorithm": "fedbn"}, "federation.algorithm fedbn keeps state of its own at the clinics"),
    ],
)
def test_what_it_does_not_go_with_is_refused(federation: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        small_study(evaluation=ASKED, federation=federation)


def test_a_worker_without_a_folder_says_what_for(north: ClinicData) -> None:
    worker = ClinicWorker(north, PLAIN, None, CPU)
    with pytest.raises(StudyError, match=r"^evaluation.local_baseline keeps state at the clinic, and this worker has"):
        worker.train(start_of(PLAIN), 1, PLAIN.digest, "run")


def test_a_whole_run_has_each_clinics_own_model_beside_the_global_one(
    phantom_clinics: VirtualClinics, tmp_path: Path
) -> None:
    folder = RunFolder.create(tmp_path / "run", PLAIN)
    outcome = federate_here(PLAIN, phantom_clinics.clinics, folder)
    assert set(outcome.local) == set(outcome.test) == {clinic.name for clinic in phantom_clinics.clinics}
    for name, histogram in outcome.local.items():
        assert isinstance(histogram, ScoreHistogram)
        assert histogram.images == outcome.test[name].images  # type: ignore[union-attr]
    assert len({str(histogram.to_lists()) for histogram in outcome.local.values()}) == len(outcome.local)
    folder.write_outcome(outcome)
    told = {event["clinic"]: event["histogram"] for event in folder.events() if event["event"] == "local"}
    assert told == {name: histogram.to_lists() for name, histogram in outcome.local.items()}
