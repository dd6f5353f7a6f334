"""A public run with a neck, and the private study that starts from it; squeezenet with random weights, no Ray."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.common.data.augmentation import to_input
from melfed.common.data.dataset import Images
from melfed.common.errors import StudyError
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import Classifier, build_trunk
from melfed.common.study.build import LONGEST_START, build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.server.results.evaluate import load_model
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.summary import PublicData
from melfed.simulations import run as run_module
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from melfed.simulations.run import simulate
from tests.in_process import SilentObserver, federate

NECK = 6


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that are anything but ImageNet's, for the right network."""
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(build_trunk("squeezenet1_1", pretrained=True).state_dict(), folder / "squeezenet1_1.pth")
    return folder


def study_of(model: dict[str, object], **sections: dict[str, object]) -> StudyProtocol:
    content = {
        "name": "necked",
        "data": {"image_size": 32},
        "partition": {"minimum_images": 4},
        "model": {"backbone": "squeezenet1_1", "neck": NECK, "dropout": 0.0, **model},
        "training": {"batch_size": 16, "learning_rate": 1e-4},
        **sections,
    }
    return StudyProtocol.model_validate_json(json.dumps(content))


def public_study(weights: Path, **model: object) -> StudyProtocol:
    federation = {"mode": "central", "rounds": 2, "validate_every": 2}
    return study_of({"weights": str(weights), **model}, federation=federation)


def private_study(weights: Path, **model: object) -> StudyProtocol:
    privacy = {"unit": "patient", "epsilon": 3.0, "evaluation": "public"}
    return study_of({"weights": str(weights), **model}, federation={"rounds": 2}, privacy=privacy)


@pytest.fixture(scope="module")
def public(phantom_clinics: VirtualClinics, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("public") / "run"
    simulate(public_study(weights), phantom_clinics, path, SilentObserver())
    return path


def whitened(model: Classifier, images: Images) -> torch.Tensor:
    backbone = BACKBONES[model.backbone]
    inputs = to_input(images.pixels(range(len(images))), backbone.mean, backbone.std, None)
    assert model.neck is not None
    with torch.no_grad():
        return model.neck(model.eval().pooled(inputs))


def test_a_public_run_ends_with_whitened_features_of_its_own_images(
    public: Path, phantom_clinics: VirtualClinics
) -> None:
    _, model = load_model(RunFolder.open(public))
    features = torch.cat([whitened(model, clinic.load("train")) for clinic in phantom_clinics.clinics])
    assert features.shape[1] == NECK
    torch.testing.assert_close(features.mean(0), torch.zeros(NECK), atol=1e-4, rtol=0)
    covariance = features.T @ features / len(features)
    torch.testing.assert_close(covariance, torch.eye(NECK) / NECK, atol=1e-4, rtol=0)


def test_its_head_is_the_penalised_logistic_regression_on_them(public: Path, phantom_clinics: VirtualClinics) -> None:
    from sklearn.linear_model import LogisticRegression

    from melfed.simulations.fit_neck import HEAD_DECAY

    _, model = load_model(RunFolder.open(public))
    parts = [clinic.load("train") for clinic in phantom_clinics.clinics]
    features = torch.cat([whitened(model, images) for images in parts]).double().numpy()
    targets = np.concatenate([images.targets for images in parts])
    oracle = LogisticRegression(C=NECK / (HEAD_DECAY * len(targets)), tol=1e-8, max_iter=1000).fit(features, targets)
    found = model.head.weight.detach().numpy()
    assert np.abs(oracle.coef_).max() > 0.1
    np.testing.assert_allclose(found, oracle.coef_, atol=2e-2 * np.abs(oracle.coef_).max())
    np.testing.assert_allclose(model.head.bias.detach().numpy(), oracle.intercept_, atol=1e-2)


def test_a_private_study_starts_where_the_public_run_ended(
    public: Path, phantom_clinics: VirtualClinics, weights: Path
) -> None:
    _, ended = load_model(RunFolder.open(public))
    for named in (public, public / "model.safetensors"):
        started = build_study_classifier(private_study(named, train="head"))
        images = phantom_clinics.clinics[0].load("test")
        torch.testing.assert_close(whitened(started, images), whitened(ended, images), rtol=0, atol=0)
        share = LONGEST_START * NECK**0.5 / float(ended.head.weight.norm())
        assert share < 1, "no longer than its steps can turn"
        torch.testing.assert_close(started.head.weight, ended.head.weight * share)
        torch.testing.assert_close(started.head.bias, ended.head.bias * share)
        assert {n for n, p in started.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    with pytest.raises(StudyError, match=f"model.neck is {NECK}, but .* is no finished run"):
        build_study_classifier(private_study(weights))


def test_a_private_run_says_what_was_public(
    public: Path, phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "federate", federate)
    summary = simulate(private_study(public), phantom_clinics, tmp_path / "run", SilentObserver())
    before = RunFolder.open(public).summary()
    names = tuple(sorted(clinic.name for clinic in phantom_clinics.clinics))
    assert summary.public == PublicData(study="necked", digest=before.study.digest, images=96, sources=names)
    assert before.public is None, "it started from ImageNet weights"
    assert summary.privacy is not None
    assert {choice.key: choice.value for choice in summary.privacy.recipe}["model.train"] == "head"
    # The digest of what was public is in the study that the clinics approve.
    written = RunFolder.open(tmp_path / "run").study()
    assert written.model.weights_sha256 is not None
    # And the whole chain is rebuilt from the private run's own file.
    _, model = load_model(RunFolder.open(tmp_path / "run"))
    _, start = load_model(RunFolder.open(public))
    images = phantom_clinics.clinics[0].load("test")
    torch.testing.assert_close(whitened(model, images), whitened(start, images), rtol=0, atol=0)
    assert not torch.equal(model.head.weight, start.head.weight)


class Interrupted(Exception):
    """Stands for a kill."""


class InterruptedWhenEvaluating(SilentObserver):
    """Ends a run when it is trained, and has its neck in memory alone."""

    def evaluating(self, clinics: list[str]) -> None:
        raise Interrupted


def test_a_public_run_killed_before_its_end_gets_the_same_neck(
    public: Path, phantom_clinics: VirtualClinics, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        simulate(public_study(weights), phantom_clinics, tmp_path / "run", InterruptedWhenEvaluating())
    simulate(public_study(weights), phantom_clinics, tmp_path / "run", SilentObserver(), resume=True)
    (_, one), (_, two) = (load_model(RunFolder.open(path)) for path in (public, tmp_path / "run"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
