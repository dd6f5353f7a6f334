"""From a study to its network: the weights it names, sealed into its digest."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision

from common.classifier import trainable_tensors
from common.errors import WeightsError
from common.protocol import ModelSpec, StudyProtocol
from common.study_model import build_study_classifier, located, seal, study_weights

PRETRAINED = StudyProtocol(model=ModelSpec(backbone="squeezenet1_1"))
SCRATCH = StudyProtocol(model=ModelSpec(backbone="simple_cnn", pretrained=False))


@pytest.fixture(autouse=True)
def _nothing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MELFED_WEIGHTS", raising=False)
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path / "empty"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the right network, in a file of the name that is looked for."""
    path = tmp_path_factory.mktemp("weights") / "squeezenet1_1.pth"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_sealing_writes_the_digest_of_the_weights_in(weights: Path) -> None:
    sealed = seal(PRETRAINED, weights.parent)
    assert sealed.model == ModelSpec(backbone="squeezenet1_1", weights_sha256=sha256(weights))
    assert sealed.digest != PRETRAINED.digest
    assert seal(sealed, weights.parent) == sealed
    named = PRETRAINED.with_changes("model", weights=str(weights))
    assert seal(named).digest == sealed.digest


def test_a_study_from_scratch_has_nothing_to_seal(tmp_path: Path) -> None:
    assert seal(SCRATCH, tmp_path / "missing") is SCRATCH
    assert located(SCRATCH, tmp_path / "missing") is SCRATCH


def test_other_weights_than_the_study_says_are_refused(weights: Path) -> None:
    other = PRETRAINED.with_changes("model", weights_sha256="0" * 64)
    for use in (study_weights, seal, located, build_study_classifier):
        with pytest.raises(WeightsError) as excinfo:
            use(other, weights.parent)
        assert "\n" not in str(excinfo.value)


def test_a_located_study_needs_no_search_and_is_the_same_study(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(weights.parent.parent)
    sealed = seal(PRETRAINED, Path(weights.parent.name))
    study = located(sealed, Path(weights.parent.name))
    assert study.digest == sealed.digest
    monkeypatch.chdir(tmp_path)
    assert study_weights(study).path == weights
    build_study_classifier(study)


def test_the_network_starts_from_the_weights(weights: Path) -> None:
    model = build_study_classifier(PRETRAINED, weights.parent)
    state = torch.load(weights, weights_only=True)
    tensors = trainable_tensors(model)
    trunk = {name: tensor for name, tensor in tensors.items() if name.startswith("trunk.")}
    assert len(trunk) == sum(not name.startswith("classifier") for name in state)
    for name, tensor in trunk.items():
        assert torch.equal(torch.from_numpy(tensor), state[name.removeprefix("trunk.")]), name


def test_a_network_from_scratch_depends_on_the_seed_alone() -> None:
    def tensors(seed: int) -> dict[str, bytes]:
        study = SCRATCH.model_copy(update={"seed": seed})
        return {name: tensor.tobytes() for name, tensor in trainable_tensors(build_study_classifier(study)).items()}

    torch.manual_seed(1)
    one = tensors(0)
    state = torch.random.get_rng_state()
    assert tensors(0) == one
    assert torch.equal(torch.random.get_rng_state(), state)
    assert tensors(1) != one
