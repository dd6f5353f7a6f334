"""A private study at a clinic: what leaves it in a round, what that costs, and when nothing leaves."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from client.cache import FeatureCache
from client.dataset import ClinicData
from client.guard import Safe
from client.inputs import PixelInputs
from client.policy import ClinicPolicy
from client.privacy.accounting import epsilon
from client.privacy.evaluation import noised_histograms
from client.privacy.ledger import Ledger, LedgerRow, verify
from client.privacy.noise import NoiseSource
from client.privacy.plan import plan_of
from client.privacy.units import privacy_units
from client.private_training import PrivateTrainer, rounded_count
from client.worker import ClinicWorker, TrainReply, shared_classifier
from common.classifier import load_trainable, trainable_tensors
from common.errors import DataError, DeclinedError, LedgerError, StudyError
from common.noisy_histogram import NoisyHistogram
from common.protocol import StudyProtocol
from common.scoring import score
from common.study_model import build_study_classifier
from common.tensors import Tensors
from simulations.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study, without_dropout
from tests.common.runs import finished_run, public_model

PLAIN_STEPS = {"optimizer": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0, "gradient_norm": None}
DELTA = 1e-5


@pytest.fixture(scope="module")
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


def study_of(model: dict[str, object] | None = None, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "recipe": "manual", **({} if "epsilon" in privacy else {"noise_multiplier": 3.0})}
    return small_study(privacy={**stated, **privacy}, training=PLAIN_STEPS, model=model or {})


STUDY = study_of()
BOUND = study_of(epsilon=2.0)


def worker_of(
    folder: Path, data: ClinicData, study: StudyProtocol = STUDY, policy: ClinicPolicy | None = None
) -> ClinicWorker:
    return ClinicWorker(data, study, None, CPU, safe=Safe(folder / "north.jsonl", policy))


def train(worker: ClinicWorker, tensors: Tensors, round_number: int = 1, run: str = "run") -> TrainReply:
    return worker.train(tensors, round_number, worker.study.digest, run)


def rows(folder: Path) -> tuple[LedgerRow, ...]:
    path = folder / "north.jsonl"
    return verify(path).rows if path.exists() else ()


def charges(folder: Path) -> list[tuple[str, int]]:
    """What was paid for, in order."""
    return [(row.purpose, row.round) for row in rows(folder) if row.status == "reserved"]


@pytest.fixture
def start() -> Tensors:
    return trainable_tensors(small_model(STUDY))


def other_than(tensors: Tensors) -> Tensors:
    return {name: tensor + np.float32(1e-3) for name, tensor in tensors.items()}


# A whole study.


def test_a_run_costs_what_the_study_states_and_each_release_is_in_the_ledger(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    worker, plan = worker_of(tmp_path, north, BOUND), plan_of(BOUND)
    first = train(worker, start, 1)
    second = train(worker, first.tensors, 2)
    tested = worker.evaluate(second.tensors, BOUND.digest, "run")
    expected = [("training", 1), ("evaluation", 1), ("training", 2), ("evaluation", 2)]
    assert charges(tmp_path) == expected
    written = rows(tmp_path)
    assert [row.status for row in written] == ["reserved", "spent", "released"] * 4
    assert {(row.study, row.run, row.unit, row.delta) for row in written} == {(BOUND.digest, "run", "patient", DELTA)}
    for row in written:
        mechanism = plan.training if row.purpose == "training" else plan.evaluation
        assert mechanism is not None
        assert (row.sampling_rate, row.noise_multiplier, row.steps) == dataclasses.astuple(mechanism)

    account = worker.account()
    assert account is not None
    assert account.epsilon == plan.epsilon == written[-1].epsilon
    assert 1.98 < account.epsilon <= 2.0
    assert account.head == written[-1].hash
    assert (first.validation, first.loss, second.loss) == (None, None, None)
    assert isinstance(second.validation, NoisyHistogram)
    assert tested.keys() == {"validation", "test"}
    for reply in (first, second):
        assert reply.account is not None
        assert reply.account.noise_multiplier == plan.training.noise_multiplier
        assert plan.evaluation is not None
        assert reply.account.evaluation_noise_multiplier == plan.evaluation.noise_multiplier
    assert first.account.epsilon < second.account.epsilon < account.epsilon

    with pytest.raises(DeclinedError, match=r"^of these patients' ε = 2 at δ = 1e-05, 1\.9\d+ is spent and 0\.0"):
        train(worker, other_than(start), 1)
    assert charges(tmp_path) == expected


def test_the_ledger_outlives_the_worker(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    train(worker_of(tmp_path, north), start, run="one")
    reply = train(worker_of(tmp_path, north), start, run="two")
    assert reply.account is not None
    training = plan_of(STUDY).training
    assert reply.account.epsilon == pytest.approx(epsilon([training, training], DELTA))


def test_a_private_study_needs_a_ledger(north: ClinicData) -> None:
    with pytest.raises(StudyError, match="clinic phantom_north: a private study needs a ledger"):
        ClinicWorker(north, STUDY, None, CPU)


# What leaves.


def test_counts_leave_in_cells(north: ClinicData, tmp_path: Path) -> None:
    exact = ClinicWorker(north, small_study(), None, CPU).describe().counts
    cells = worker_of(tmp_path, north).describe().counts
    assert cells == {name: rounded_count(count, 10) for name, count in exact.items()}
    assert all(count % 10 == 0 for count in cells.values())
    public = worker_of(tmp_path, north, study_of(evaluation="public", smallest_cell=7)).describe().counts
    assert {name for name in exact if public[name] == exact[name]} >= {n for n in exact if not n.startswith("train")}
    assert all(public[name] % 7 == 0 for name in exact if name.startswith("train"))
    assert rows(tmp_path) == ()


def test_a_round_tells_the_rounded_number_of_images(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    reply = train(worker_of(tmp_path, north), start)
    assert reply.images == rounded_count(len(north.train), 10) != len(north.train)


def test_an_update_has_noise_of_the_planned_size(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    """Two updates from one model differ by noise of variance 2(σC/N)² a parameter. False alarm below 1e-9.

    Dropout makes the clipped sums differ too, by less than 2N in norm: next to nothing beside σ√d.
    """
    study = study_of(noise_multiplier=60.0, clipping_norm=0.5, evaluation="public")
    patients = rounded_count(len(set(privacy_units(north.train, "patient"))), 10)
    flat = []
    for name in ("one", "two"):
        reply = train(worker_of(tmp_path / name, north, study), start)
        flat.append(np.concatenate([tensor.ravel() for _, tensor in sorted(reply.tensors.items())]).astype(np.float64))
    scaled = (flat[0] - flat[1]) / (math.sqrt(2) * 60.0 * 0.5 / patients)
    assert len(scaled) > 5000
    assert abs((scaled**2).mean() - 1) < 6.5 * math.sqrt(2 / len(scaled)) + 1e-2


@pytest.mark.parametrize("clipping", ["fixed", "normalised"])
def test_without_noise_a_round_is_that_of_the_private_trainer(
    north: ClinicData, start: Tensors, tmp_path: Path, clipping: str
) -> None:
    study = study_of(noise_multiplier=0.0, steps=2, clipping=clipping, smallest_cell=7)
    without_dropout(shared_classifier(study, None, CPU))
    reply = train(worker_of(tmp_path, north, study), start)
    model = without_dropout(small_model(study)).to(memory_format=torch.channels_last)
    load_trainable(model, start)
    images, units = north.load("train"), privacy_units(north.train, "patient")
    assert study.privacy is not None
    PrivateTrainer(model, study, study.privacy, CPU).train(
        PixelInputs(model, images, 32, None, CPU),
        images.targets,
        units,
        expected_units=rounded_count(len(set(units)), 7),
        noise_multiplier=0.0,
        round_number=1,
    )
    for name, tensor in trainable_tensors(model).items():
        np.testing.assert_allclose(reply.tensors[name], tensor, rtol=1e-5, atol=1e-7, err_msg=name)
    assert reply.account is not None
    assert reply.account.epsilon == math.inf


def test_histograms_have_the_planned_noise(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    plan = plan_of(STUDY)
    assert plan.evaluation is not None
    (quiet,) = noised_histograms({"test": ([], [], [])}, plan.evaluation.noise_multiplier, NoiseSource()).values()
    one, two = (worker_of(tmp_path / name, north).evaluate(start, STUDY.digest, "run") for name in ("one", "two"))
    for part in ("validation", "test"):
        for histogram in (one[part], two[part]):
            assert isinstance(histogram, NoisyHistogram)
            assert histogram.noise_std == quiet.noise_std > 0
        assert one[part].to_lists() != two[part].to_lists()


def test_without_noise_histograms_are_those_of_the_patients(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    study = study_of(noise_multiplier=0.0)
    scored = worker_of(tmp_path, north, study).evaluate(start, study.digest, "run")
    model = small_model(study)
    load_trainable(model, start)
    images = north.load("test")
    probabilities = score(model, images, 32, CPU)
    parts = {"test": (probabilities, images.targets, privacy_units(images.records, "patient"))}
    expected = noised_histograms(parts, 0.0, NoiseSource())["test"]
    assert scored["test"].to_lists() == expected.to_lists()


def test_public_evaluation_is_exact_and_free(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    study, plain = study_of(evaluation="public"), small_study(training=PLAIN_STEPS)
    worker = worker_of(tmp_path, north, study)
    scored = worker.evaluate(start, study.digest, "run")
    exact = ClinicWorker(north, plain, None, CPU).evaluate(start, plain.digest)
    assert {part: histogram.to_lists() for part, histogram in scored.items()} == {
        part: histogram.to_lists() for part, histogram in exact.items()
    }
    assert rows(tmp_path) == ()
    account = worker.account()
    assert account is not None
    assert (account.epsilon, account.evaluation_noise_multiplier) == (0.0, None)
    reply = train(worker, start, 2)
    assert reply.validation is not None
    assert reply.validation.to_lists() == exact["validation"].to_lists()
    assert charges(tmp_path) == [("training", 2)]


def test_only_what_learns_leaves_whatever_is_kept_of_the_rest(north: ClinicData, tmp_path: Path) -> None:
    """The head alone, on stored outputs of another run's network, against the pixels."""
    run = finished_run(tmp_path / "run", public_model(neck=5, metadata=True))
    warm = {"pretrained": True, "train": "head", "weights": str(run), "neck": 5, "metadata": True}
    study = study_of(model=warm, noise_multiplier=0.0)
    start = trainable_tensors(build_study_classifier(study))
    assert start.keys() == {"head.weight", "head.bias"}
    assert start["head.weight"].any()
    without_dropout(shared_classifier(study, None, CPU))
    replies = []
    for name, limit in (("kept", 2**30), ("pixels", 0)):
        worker = worker_of(tmp_path / name, north, study)
        worker.features = FeatureCache(tmp_path / name / "features", limit)
        replies.append((train(worker, start), worker.evaluate(start, study.digest, "run")))
    assert list((tmp_path / "kept" / "features").rglob("*.*"))
    (kept, scored), (seen, rescored) = replies
    assert kept.tensors.keys() == seen.tensors.keys() == start.keys()
    for name, tensor in kept.tensors.items():
        assert not np.array_equal(tensor, start[name])
        np.testing.assert_allclose(tensor, seen.tensors[name], rtol=1e-4, atol=1e-5)
    assert scored["test"].to_lists() == rescored["test"].to_lists()


# Asking again.


def test_the_same_request_has_the_same_reply_at_no_cost(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    first = train(worker_of(tmp_path, north), start, 2)
    before = (tmp_path / "north.jsonl").read_bytes()
    again = train(worker_of(tmp_path, north), start, 2)
    assert (tmp_path / "north.jsonl").read_bytes() == before
    assert charges(tmp_path) == [("evaluation", 1), ("training", 2)]
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert first.validation is not None
    assert again.validation is not None
    assert again.validation.to_lists() == first.validation.to_lists()
    assert again.account == first.account
    assert again.images == first.images


def test_the_same_evaluation_has_the_same_noise_at_no_cost(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    first, again = (worker_of(tmp_path, north).evaluate(start, STUDY.digest, "run") for _ in range(2))
    assert {part: h.to_lists() for part, h in again.items()} == {part: h.to_lists() for part, h in first.items()}
    assert charges(tmp_path) == [("evaluation", 2)]


def test_another_model_costs_again(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, north)
    first, second = train(worker, start), train(worker, other_than(start))
    assert charges(tmp_path) == [("training", 1)] * 2
    assert first.account is not None
    assert second.account is not None
    assert second.account.epsilon == pytest.approx(epsilon([plan_of(STUDY).training] * 2, DELTA))
    assert second.account.epsilon > first.account.epsilon


def test_a_worker_that_dies_before_its_reply_leaves_is_not_paid_twice(
    north: ClinicData, start: Tensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiedError(BaseException):
        pass

    mark = Ledger.mark

    def dying(self: Ledger, reservation: object, status: str) -> None:
        if status == "released":
            raise DiedError
        mark(self, reservation, status)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", dying)
        with pytest.raises(DiedError):
            train(worker_of(tmp_path, north), start)
    assert [row.status for row in rows(tmp_path)] == ["reserved", "spent"]
    kept = train(worker_of(tmp_path, north), start)
    assert [row.status for row in rows(tmp_path)] == ["reserved", "spent", "released"]
    again = train(worker_of(tmp_path, north), start)
    assert all((again.tensors[name] == tensor).all() for name, tensor in kept.tensors.items())
    # From now on it has left: another model is a second charge.
    train(worker_of(tmp_path, north), other_than(start))
    assert charges(tmp_path) == [("training", 1)] * 2


# When nothing leaves.


@pytest.mark.parametrize("ask", ["describe", "train", "evaluate"])
def test_a_policy_is_asked_before_anything_else(
    north: ClinicData, start: Tensors, tmp_path: Path, ask: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClinicData, "load", lambda *_: pytest.fail("images were opened"))
    worker = worker_of(tmp_path, north, policy=ClinicPolicy(epsilon=1.0, studies="any", clipping_norm=0.1))
    with pytest.raises(DeclinedError, match=r"its clipping norm C is 1, this clinic allows at most 0\.1"):
        {
            "describe": worker.describe,
            "train": lambda: train(worker, start),
            "evaluate": lambda: worker.evaluate(start, STUDY.digest, "run"),
        }[ask]()
    assert not list(tmp_path.iterdir())


def test_tensors_that_may_not_leave_are_not_computed(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    policy = ClinicPolicy(epsilon=9.0, studies="any", tensors=("head.*",))
    with pytest.raises(DeclinedError, match=r"10 tensors may not leave this clinic, 'trunk\.features"):
        train(worker_of(tmp_path, north, policy=policy), start)
    assert rows(tmp_path) == ()


def test_a_clinic_that_allows_it_trains_without_privacy_and_without_a_ledger(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    study, policy = small_study(), ClinicPolicy(epsilon=1.0, studies="any", non_private=True)
    reply = train(worker_of(tmp_path, north, study, policy), start, 2)
    assert reply.account is None
    assert reply.loss is not None
    assert not list(tmp_path.iterdir())


def test_patients_cannot_be_protected_where_they_are_not_known(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    nameless = tuple(dataclasses.replace(record, patient_id=None) for record in north.train[:3])
    data = dataclasses.replace(north, train=(*nameless, *north.train[3:]))
    expected = rf"^3 of {len(north.train)} images have no patient id, but the study protects patients"
    worker = worker_of(tmp_path, data)
    for ask in (worker.describe, lambda: train(worker, start)):
        with pytest.raises(DataError, match=expected):
            ask()
    assert rows(tmp_path) == ()
    lesions = study_of(unit="lesion")
    reply = train(worker_of(tmp_path, data, lesions), start)
    assert reply.account is not None
    assert {row.unit for row in rows(tmp_path)} == {"lesion"}


def test_a_ledger_of_other_data_stops_training(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    train(worker_of(tmp_path, north), start)
    other = worker_of(tmp_path, dataclasses.replace(north, train=north.train[1:]))
    for ask in (other.describe, lambda: train(other, start), lambda: other.evaluate(start, STUDY.digest, "run")):
        with pytest.raises(LedgerError, match="is the ledger of data"):
            ask()
    assert charges(tmp_path) == [("training", 1)]


def test_a_damaged_ledger_stops_training_and_is_never_begun_anew(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    train(worker_of(tmp_path, north), start)
    path = tmp_path / "north.jsonl"
    damaged = path.read_bytes().replace(b'"round":1', b'"round":7', 1)
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    worker = worker_of(tmp_path, north)
    for ask in (worker.describe, lambda: train(worker, start), worker.account):
        with pytest.raises(LedgerError):
            ask()
    assert path.read_bytes() == damaged


def test_tensors_that_do_not_fit_and_other_studies_cost_nothing(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    worker = worker_of(tmp_path, north)
    with pytest.raises(StudyError, match="holds study"):
        worker.train(start, 2, BOUND.digest, "run")
    with pytest.raises(Exception, match=r"lacks head\.bias"):
        train(worker, {name: tensor for name, tensor in start.items() if name != "head.bias"}, 2)
    assert rows(tmp_path) == ()
