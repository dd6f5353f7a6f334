"""A private study at a clinic: what leaves it in a round, and what that costs."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.client.config.clinic import TellSection
from melfed.client.data.clinic_data import PARTS, ClinicData
from melfed.client.privacy.accounting import epsilon
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.noisy_evaluation import noised_histograms
from melfed.client.privacy.plan import plan_of
from melfed.client.privacy.units import privacy_units
from melfed.client.training.feature_cache import FeatureCache
from melfed.client.training.inputs import PixelInputs
from melfed.client.training.private import PrivateTrainer
from melfed.client.worker.worker import ClinicWorker, shared_classifier
from melfed.common.data.subgroups import cell_names, cells_of
from melfed.common.errors import StudyError
from melfed.common.metrics.noisy_histogram import NoisyHistogram, pooled
from melfed.common.metrics.score_edges import score_edges
from melfed.common.metrics.subgroups import variance_of_subgroups
from melfed.common.model.classifier import load_trainable, trainable_tensors
from melfed.common.model.inference import score
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.ledger.ledgers import too_little
from tests.client.private_clinic import (
    BOUND,
    DELTA,
    PLAIN_STEPS,
    STUDY,
    charges,
    other_than,
    rows,
    study_of,
    train,
    worker_of,
)
from tests.client.small import CPU, small_model, small_study, without_dropout
from tests.common.noisy import EDGES
from tests.common.runs import finished_run, public_model


@pytest.fixture(scope="module")
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


@pytest.fixture
def start() -> Tensors:
    return trainable_tensors(small_model(STUDY))


def declaring(training: int, study: StudyProtocol) -> TellSection:
    """The public figures of a clinic that says to have so many patients to train on."""
    units = round(training / (1 - study.partition.validation - study.partition.test))
    return TellSection(units=units, positive_units=units // 4)


# A whole study.


def test_a_run_costs_what_the_study_states_and_each_release_is_in_the_ledger(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    worker, plan = worker_of(tmp_path, north, BOUND), plan_of(BOUND)
    first = train(worker, start, 1)
    second = train(worker, first.tensors, 2)
    tested = worker.evaluate(second.tensors, BOUND.digest, "run")
    expected = [("counts", 0), ("training", 1), ("evaluation", 1), ("training", 2), ("evaluation", 2)]
    assert charges(tmp_path) == expected
    written = rows(tmp_path)
    assert [row.status for row in written] == ["reserved", "spent", "released"] * 5
    assert {(row.study, row.run, row.unit, row.delta) for row in written} == {(BOUND.digest, "run", "patient", DELTA)}
    for row in written:
        mechanism = {"counts": plan.counts, "training": plan.training, "evaluation": plan.evaluation}[row.purpose]
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

    with too_little(r"^of ε = 2 at δ = 1e-05, 1\.9\d+ is spent and 0\.0"):
        train(worker, other_than(start), 1)
    assert charges(tmp_path) == expected


def test_the_ledger_outlives_the_worker(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    train(worker_of(tmp_path, north), start, run="one")
    reply = train(worker_of(tmp_path, north), start, run="two")
    assert reply.account is not None
    training, counts = plan_of(STUDY).training, plan_of(STUDY).counts
    assert reply.account.epsilon == pytest.approx(epsilon([training, training, counts, counts], DELTA))


def test_a_private_study_needs_a_ledger(north: ClinicData) -> None:
    with pytest.raises(StudyError, match="clinic phantom_north: a private study needs a ledger"):
        ClinicWorker(north, STUDY, None, CPU)


# What leaves.


def units_in(clinic: ClinicData, part: str) -> tuple[int, int]:
    """Patients of a part, and those of them with a positive image."""
    records = getattr(clinic, part)
    positive = {name for name, r in zip(privacy_units(records, "patient"), records, strict=True) if r.target}
    return len(set(privacy_units(records, "patient"))), len(positive)


def test_counts_are_of_patients_noised_once_a_run_and_charged(north: ClinicData, tmp_path: Path) -> None:
    told = [worker_of(tmp_path, north).describe("run") for _ in range(3)]
    assert told[0] == told[1] == told[2]
    assert charges(tmp_path) == [("counts", 0)]
    assert set(told[0].counts) == {f"{p}_{what}" for p in PARTS for what in ("units", "positive_units")}
    sigma = plan_of(STUDY).counts.noise_multiplier
    assert told[0].count_noise == sigma > 1
    for part in PARTS:
        units, positive = units_in(north, part)
        # Two values with noise each: 8 standard deviations.
        assert abs(told[0].counts[f"{part}_units"] - units) < 8 * sigma * math.sqrt(2) + 1
        assert abs(told[0].counts[f"{part}_positive_units"] - positive) < 8 * sigma + 1
    other = worker_of(tmp_path, north).describe("another run")
    assert other.counts != told[0].counts
    assert charges(tmp_path) == [("counts", 0)] * 2


def test_whoever_names_no_run_is_told_no_counts_and_nobody_pays(north: ClinicData, tmp_path: Path) -> None:
    told = worker_of(tmp_path, north).describe()
    assert (told.counts, told.count_noise, charges(tmp_path)) == ({}, 0.0, [])


def test_a_clinic_may_declare_public_figures_for_no_epsilon(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, north)
    worker.tell = TellSection(units=200, positive_units=50)
    told = worker.describe("run")
    assert told.counts["train_units"] == 140
    assert told.counts["test_positive_units"] == 10
    assert (told.count_noise, charges(tmp_path)) == (0.0, [])
    assert train(worker, start).weight == 140
    assert charges(tmp_path) == [("training", 1)]


def test_public_evaluation_images_are_counted_as_they_are(north: ClinicData, tmp_path: Path) -> None:
    exact = ClinicWorker(north, small_study(), None, CPU).describe("run").counts
    public = worker_of(tmp_path, north, study_of(evaluation="public")).describe("run").counts
    assert {name: public[name] for name in exact if not name.startswith("train")} == {
        name: count for name, count in exact.items() if not name.startswith("train")
    }
    assert {name for name in public if name.startswith("train")} == {"train_units", "train_positive_units"}


def test_a_round_weighs_by_the_number_that_the_run_was_told(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    worker = worker_of(tmp_path, north)
    assert train(worker, start).weight == max(worker.describe("run").counts["train_units"], 1)


def test_a_clinic_without_patients_answers_like_any_other(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    nobody = dataclasses.replace(north, train=(), validation=(), test=())
    worker = worker_of(tmp_path, nobody)
    assert set(worker.describe("run").counts) == set(worker_of(tmp_path / "other", north).describe("run").counts)
    reply = train(worker, start, 2)
    assert reply.weight >= 1
    assert reply.validation is not None
    assert reply.tensors.keys() == start.keys()
    assert any(not np.array_equal(reply.tensors[name], start[name]) for name in start)
    assert set(worker.evaluate(reply.tensors, STUDY.digest, "run")) == {"validation", "test"}


def test_an_update_has_noise_of_the_planned_size(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    """Two updates from one model differ by noise of variance 2(σC/N)² a parameter. False alarm below 1e-9.

    Dropout makes the clipped sums differ too, by less than 2N in norm: next to nothing beside σ√d.
    """
    study = study_of(noise_multiplier=60.0, clipping_norm=0.5, evaluation="public")
    patients = 150
    flat = []
    for name in ("one", "two"):
        worker = worker_of(tmp_path / name, north, study)
        worker.tell = declaring(patients, study)
        reply = train(worker, start)
        flat.append(np.concatenate([tensor.ravel() for _, tensor in sorted(reply.tensors.items())]).astype(np.float64))
    scaled = (flat[0] - flat[1]) / (math.sqrt(2) * 60.0 * 0.5 / patients)
    assert len(scaled) > 5000
    assert abs((scaled**2).mean() - 1) < 6.5 * math.sqrt(2 / len(scaled)) + 1e-2


@pytest.mark.parametrize("clipping", ["fixed", "normalised"])
def test_without_noise_a_round_is_that_of_the_private_trainer(
    north: ClinicData, start: Tensors, tmp_path: Path, clipping: str
) -> None:
    study = study_of(noise_multiplier=0.0, steps=2, clipping=clipping)
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
        expected_units=len(set(units)),
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
    (quiet,) = noised_histograms(
        {"test": ([], [], [])}, plan.evaluation.noise_multiplier, NoiseSource(), EDGES
    ).values()
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
    logits = score(model, images, 32, CPU)
    parts = {"test": (logits, images.targets, privacy_units(images.records, "patient"))}
    expected = noised_histograms(parts, 0.0, NoiseSource(), score_edges(start))["test"]
    assert scored["test"].to_lists() == expected.to_lists()


BY_SEX = BOUND.with_changes("evaluation", subgroups=("sex", "source", "age"))


def test_subgroups_are_one_charge_more_and_the_same_when_asked_again(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    worker, plan = worker_of(tmp_path, north, BY_SEX), plan_of(BY_SEX)
    assert plan.subgroups is not None
    second = train(worker, train(worker, start, 1).tensors, 2)
    tested, again = (worker.evaluate(second.tensors, BY_SEX.digest, "run") for _ in range(2))
    assert charges(tmp_path)[-2:] == [("evaluation", 2), ("subgroups", 2)]
    (row,) = (row for row in rows(tmp_path) if (row.purpose, row.status) == ("subgroups", "reserved"))
    assert (row.sampling_rate, row.noise_multiplier, row.steps) == dataclasses.astuple(plan.subgroups)
    assert {name: h.to_lists() for name, h in tested.items()} == {name: h.to_lists() for name, h in again.items()}
    assert set(tested) == {"validation", "test", *(f"subgroups/{cell}" for cell in cell_names(("sex", "age")))}
    account = worker.account()
    assert account is not None
    assert account.epsilon == plan.epsilon
    assert 1.98 < account.epsilon <= 2.0
    variance = variance_of_subgroups(plan.subgroups.noise_multiplier, 2)
    cells = [h for name, h in tested.items() if name.startswith("subgroups/")]
    assert all(isinstance(h, NoisyHistogram) and h.noise_variance[0] == variance for h in cells)
    with too_little("^of ε = 2"):
        worker.evaluate(other_than(second.tensors), BY_SEX.digest, "run")


def test_without_noise_subgroups_are_those_of_the_patients(north: ClinicData, start: Tensors, tmp_path: Path) -> None:
    study = study_of(noise_multiplier=0.0).with_changes("evaluation", subgroups=("sex",))
    scored = worker_of(tmp_path, north, study).evaluate(start, study.digest, "run")
    cells = pooled([scored[f"subgroups/sex/{number}"] for number in range(3)])
    assert cells.to_lists() == scored["test"].to_lists(), "each patient is in one"
    images = north.load("test")
    units = np.array(privacy_units(images.records, "patient"))
    sexes = cells_of(images.records, units.tolist(), "sex")
    counted = [scored[f"subgroups/sex/{n}"].counts(name).sum() for n in range(3) for name in ("positives", "negatives")]
    assert counted[0] + counted[1] == pytest.approx(len(set(units[sexes == 0])), rel=0.2)
    assert len(set(sexes)) > 1


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
    assert charges(tmp_path) == [("counts", 0), ("training", 2)]


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


def test_views_of_the_pixels_do_not_follow_a_seed_that_others_know(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    """They are drawn image after image: by a known seed, a patient more would give all later ones other views."""
    study = study_of(noise_multiplier=0.0).with_changes("training", augment=True)
    without_dropout(shared_classifier(study, None, CPU))
    one, two = (train(worker_of(tmp_path / name, north, study), start) for name in ("one", "two"))
    assert not np.array_equal(one.tensors["head.weight"], two.tensors["head.weight"])


def test_a_model_without_sensible_scores_gets_no_other_answer(
    north: ClinicData, start: Tensors, tmp_path: Path
) -> None:
    """An error would tell whoever made the model something about the images, without noise, as often as it asks."""
    study = study_of(noise_multiplier=0.0)
    huge = {name: np.full_like(tensor, 3e38) for name, tensor in start.items()}
    model = small_model(study)
    load_trainable(model, huge)
    assert np.isnan(score(model, north.load("test"), 32, CPU)).any()
    scored = worker_of(tmp_path, north, study).evaluate(huge, study.digest, "run")
    assert isinstance(scored["test"], NoisyHistogram)
    reply = train(worker_of(tmp_path, north, study), huge, 1)
    assert all(np.isfinite(tensor).all() for tensor in reply.tensors.values())
    assert charges(tmp_path) == [("evaluation", 2), ("counts", 0), ("training", 1)]
