"""Whole federations whose models score on other scales: AUROC and its like stay what they are for the scores."""

import json
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import melfed.client.worker.evaluation
import melfed.client.worker.worker
from melfed.client.data.clinic_data import ClinicData
from melfed.client.privacy.noise import NoiseSource
from melfed.client.privacy.units import privacy_units
from melfed.common.aggregation.fixed_point import fixed_point_for
from melfed.common.data.augmentation import to_input
from melfed.common.metrics.exact import EvaluationMetrics
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import NoisyHistogram, pooled
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import Classifier, load_trainable, trainable_tensors
from melfed.common.model.inference import score
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.runs.folder import RunFolder
from melfed.simulations.engine.partition_worker import Simulation
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU
from tests.in_process import InProcessGrid, conduct

SCALES = [(1e-4, 0.0), (1e4, 0.0), (1.0, 30.0), (1.0, -30.0), (1e-4, 30.0), (3.0, -7.0), (1e4, -30.0)]
NOISE = 0.02
"""σ of the histograms: small, since the clinics are."""


def study_of(**privacy: object) -> StudyProtocol:
    """A study of one round that moves the model by nothing, so that the model that it starts from is evaluated."""
    content = {
        "name": "scaled",
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "simple_cnn", "pretrained": False},
        "training": {"optimizer": "sgd", "learning_rate": 1e-30, "warmup_steps": 0, "augment": False},
        "federation": {"rounds": 1},
    }
    if privacy:
        content["privacy"] = {"unit": "patient", "recipe": "manual", "sampling_rate": 1.0, "steps": 1, **privacy}
    return StudyProtocol.model_validate_json(json.dumps(content))


PLAIN = study_of()
PRIVATE = study_of(noise_multiplier=NOISE, evaluation="noised")


@pytest.fixture(scope="module")
def clinics(phantom_clinics: VirtualClinics) -> tuple[ClinicData, ...]:
    return phantom_clinics.clinics


@pytest.fixture(scope="module", autouse=True)
def _whitened(clinics: tuple[ClinicData, ...]) -> Iterator[None]:
    """Give the head features as a neck gives them: from scratch they hardly differ between images."""
    model, spec = build_study_classifier(PLAIN).eval(), BACKBONES["simple_cnn"]
    images = [clinic.load("test") for clinic in clinics]
    with torch.no_grad():
        inputs = [to_input(one.pixels(range(len(one))), spec.mean, spec.std, None) for one in images]
        features = torch.cat([model.features(one) for one in inputs])
    mean, deviation = features.mean(0), features.std(0).clamp(min=1e-6)
    plain = Classifier.features
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "features", lambda self, images: (plain(self, images) - mean) / deviation)
        yield


@pytest.fixture(scope="module")
def tensors(clinics: tuple[ClinicData, ...], _whitened: None) -> Tensors:
    """A model whose head points from other lesions to melanomas, with logits of about one around 0."""
    model, spec = build_study_classifier(PLAIN).eval(), BACKBONES["simple_cnn"]
    images = [clinic.load("test") for clinic in clinics]  # so few that only their own direction tells them apart
    inputs = [to_input(one.pixels(range(len(one))), spec.mean, spec.std, None) for one in images]
    features = np.concatenate([model.features(one).detach().numpy() for one in inputs]).astype(np.float64)
    targets = np.concatenate([one.targets for one in images])
    spread = np.cov(features.T) + 0.3 * np.eye(features.shape[1])
    direction = np.linalg.solve(spread, features[targets == 1].mean(0) - features[targets == 0].mean(0))
    direction /= (features @ direction).std()
    # A bias of few bits: the mean's unit of a tensor below 1 does not follow its scale, and so must not round it.
    own, bias = trainable_tensors(model), np.round(-64 * (features @ direction).mean()) / 64
    return {**own, "head.weight": direction[None].astype(np.float32), "head.bias": np.array([bias], np.float32)}


def scaled(tensors: Tensors, scale: float, shift: float) -> Tensors:
    head = {name: (tensors[name] * np.float64(scale)).astype(np.float32) for name in ("head.weight", "head.bias")}
    head["head.bias"] += np.float32(shift)
    return {**tensors, **head}


def evaluated(
    path: Path, study: StudyProtocol, clinics: tuple[ClinicData, ...], tensors: Tensors
) -> tuple[EvaluationMetrics, bool]:
    """Return the federation's pooled test metrics, and whether they come from noised histograms."""
    folder = RunFolder.create(path, study)
    grid = InProcessGrid(Simulation(study, clinics, folder.ledgers))
    outcome = conduct(grid, study, folder, tensors)
    # Nothing learns, so the mean's rounding is all that may move it: a unit for all clinics' images at most.
    moved = fixed_point_for(tensors, weight=1).unit("head.weight") * len(clinics)
    np.testing.assert_allclose(outcome.models[""]["head.weight"], tensors["head.weight"], atol=moved)
    whole = pooled(outcome.test.values())
    return metrics_of(whole), isinstance(whole, NoisyHistogram)


def scores(
    clinics: Sequence[ClinicData], tensors: Tensors, of: Callable[[ClinicData], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return logits, targets, and what `of` says of each clinic's test images, pooled."""
    model = build_study_classifier(PLAIN)
    load_trainable(model, tensors)
    images = [clinic.load("test") for clinic in clinics]
    logits = np.concatenate([score(model, one, 32, CPU) for one in images])
    return logits, np.concatenate([one.targets for one in images]), np.concatenate([of(c) for c in clinics])


def ones(clinic: ClinicData) -> np.ndarray:
    return np.ones(len(clinic.test))


def weights(clinic: ClinicData) -> np.ndarray:
    """What each test image counts where every patient counts once."""
    images = clinic.load("test")
    units, y = np.array(privacy_units(images.records, "patient")), images.targets
    both = {unit for unit in units if len(set(y[units == unit])) == 2}
    shares = np.where(y == 1, 0.8, 0.6)
    whole = np.array([share if unit in both else 1.0 for unit, share in zip(units, shares, strict=True)])
    return whole / np.array([((units == unit) & (y == target)).sum() for unit, target in zip(units, y, strict=True)])


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_without_privacy_the_metrics_are_those_of_the_scores(
    scale: float, shift: float, clinics: tuple[ClinicData, ...], tensors: Tensors, tmp_path: Path
) -> None:
    model = scaled(tensors, scale, shift)
    m, noised = evaluated(tmp_path / "run", PLAIN, clinics, model)
    assert not noised
    logits, y, _ = scores(clinics, model, ones)
    before, _, _ = scores(clinics, tensors, ones)
    assert roc_auc_score(y, before) > 0.6
    assert m.auroc.value == pytest.approx(roc_auc_score(y, logits), abs=1e-9)
    assert m.auroc.value == pytest.approx(roc_auc_score(y, before), abs=1e-3)
    assert m.auprc.value == pytest.approx(average_precision_score(y, logits), abs=1e-9)
    assert m.auprc.value == pytest.approx(average_precision_score(y, before), abs=1e-3)
    expected = ((logits[y == 1] >= 0).mean() + (logits[y == 0] < 0).mean()) / 2
    assert m.balanced_accuracy.value == pytest.approx(expected)


def equal_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run draw the same noise, clinic after clinic."""
    number = count()
    for module in (melfed.client.worker.worker, melfed.client.worker.evaluation):
        monkeypatch.setattr(module, "NoiseSource", lambda: NoiseSource(np.random.default_rng(next(number)).bytes))


@pytest.fixture(scope="module")
def unscaled(
    clinics: tuple[ClinicData, ...], tensors: Tensors, tmp_path_factory: pytest.TempPathFactory
) -> EvaluationMetrics:
    with pytest.MonkeyPatch.context() as patch:
        equal_noise(patch)
        return evaluated(tmp_path_factory.mktemp("unscaled") / "run", PRIVATE, clinics, tensors)[0]


@pytest.mark.parametrize(("scale", "shift"), SCALES)
def test_with_equal_noise_the_metrics_are_the_same_within_their_intervals(
    scale: float,
    shift: float,
    clinics: tuple[ClinicData, ...],
    tensors: Tensors,
    unscaled: EvaluationMetrics,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    equal_noise(monkeypatch)
    m, noised = evaluated(tmp_path / "run", PRIVATE, clinics, scaled(tensors, scale, shift))
    assert noised
    logits, y, weight = scores(clinics, tensors, weights)
    exact = roc_auc_score(y, logits, sample_weight=weight), average_precision_score(y, logits, sample_weight=weight)
    for name, value in zip(("auroc", "auprc"), exact, strict=True):
        mine, theirs = getattr(m, name), getattr(unscaled, name)
        assert mine.low <= value <= mine.high
        assert mine.low <= theirs.value <= mine.high
        assert mine.value == pytest.approx(theirs.value, abs=0.03)
        # Not by knowing nothing: the interval is hardly wider for the scale.
        assert mine.high - mine.low < 1.2 * (theirs.high - theirs.low)


def test_a_scale_of_a_power_of_two_leaves_noised_histograms_as_they_are(
    clinics: tuple[ClinicData, ...],
    tensors: Tensors,
    unscaled: EvaluationMetrics,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    equal_noise(monkeypatch)
    # Upwards: the mean's unit follows a model whose values are beyond 1, and is fixed for smaller ones.
    m, _ = evaluated(tmp_path / "run", PRIVATE, clinics, scaled(tensors, 2.0**13, 0.0))
    assert m.model_dump(exclude={"threshold_at_90_specificity", "threshold_at_95_specificity"}) == unscaled.model_dump(
        exclude={"threshold_at_90_specificity", "threshold_at_95_specificity"}
    )
