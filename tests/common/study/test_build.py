"""From a study to its network: the weights it names, or another run's network, sealed into its digest."""

import hashlib
import math
import shutil
from pathlib import Path

import pytest
import torch
import torchvision

from melfed.common.errors import StudyError, WeightsError
from melfed.common.model.classifier import Classifier, trainable_tensors
from melfed.common.study.build import LONGEST_START, build_study_classifier, located, seal, study_weights
from melfed.common.study.protocol import FederationSpec, ModelSpec, PrivacySpec, StudyProtocol
from tests.common.networks import images
from tests.common.runs import finished_run, public_model

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


# A warm start from a finished run.


def started_from(run: Path, **model: object) -> StudyProtocol:
    """A study that goes on from a run of the small network."""
    return StudyProtocol(model=ModelSpec(**{"backbone": "simple_cnn", "train": "head", "weights": str(run), **model}))


def same(one: Classifier, two: Classifier, *prefixes: str) -> bool:
    """Tell whether all tensors of these beginnings are the same bits; there must be some."""
    mine, theirs = one.state_dict(), two.state_dict()
    names = [name for name in mine if name.startswith(prefixes)]
    return bool(names) and all(name in theirs and torch.equal(mine[name], theirs[name]) for name in names)


@pytest.mark.parametrize("neck", [None, 5])
@pytest.mark.parametrize("metadata", [False, True])
def test_a_warm_start_is_the_runs_network_bit_for_bit(tmp_path: Path, neck: int | None, metadata: bool) -> None:
    theirs = public_model(neck=neck, metadata=metadata)
    study = started_from(finished_run(tmp_path / "run", theirs), neck=neck, metadata=metadata)
    mine = build_study_classifier(study)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    assert same(mine, theirs, "")
    learning = {name for name, p in mine.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} <= learning
    assert all(name.startswith(("head.", "metadata.")) for name in learning)
    with torch.no_grad():
        record = torch.zeros(2, 15) if metadata else None
        assert torch.equal(mine.eval()(images(), record), theirs.eval()(images(), record))


@pytest.mark.parametrize("length", [0.0, 0.1, 1.2, 40.0])
def test_in_a_private_study_the_head_of_a_warm_start_is_shortened(tmp_path: Path, length: float) -> None:
    theirs = public_model(neck=5)
    with torch.no_grad():
        theirs.head.weight.mul_(length / theirs.head.weight.norm())
    public = started_from(finished_run(tmp_path / "run", theirs), neck=5)
    private = public.model_copy(update={"privacy": PrivacySpec(unit="patient", epsilon=3.0)})
    assert same(build_study_classifier(public), theirs, "")
    mine = build_study_classifier(private)
    share = min(1.0, LONGEST_START * math.sqrt(5) / length) if length else 1.0
    assert torch.allclose(mine.head.weight, theirs.head.weight * share)
    assert torch.allclose(mine.head.bias, theirs.head.bias * share)
    assert same(mine, theirs, "trunk.", "neck.")
    if share == 1:
        assert same(mine, theirs, "")


def test_metadata_begin_at_zero_beside_the_public_head(tmp_path: Path) -> None:
    theirs = public_model(neck=5)
    study = started_from(finished_run(tmp_path / "run", theirs), neck=5, metadata=True)
    assert not build_study_classifier(study).head.weight.any(), "that is for private studies"
    private = study.model_copy(update={"privacy": PrivacySpec(unit="patient", epsilon=3.0)})
    mine = build_study_classifier(private)
    share = mine.head.bias.item() / theirs.head.bias.item()
    assert 0 < share <= 1
    assert torch.allclose(mine.head.weight[:, :5], theirs.head.weight * share)
    assert not mine.head.weight[:, 5:].any()


def test_a_private_study_without_a_neck_begins_at_the_runs_head(tmp_path: Path) -> None:
    """How long features are is not known there."""
    theirs = public_model()
    study = started_from(finished_run(tmp_path / "run", theirs))
    private = study.model_copy(update={"privacy": PrivacySpec(unit="patient", epsilon=3.0)})
    assert same(build_study_classifier(private), theirs, "")


def test_a_run_is_named_by_its_folder_or_its_file(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", public_model())
    for place in (run, run / "model.safetensors"):
        assert study_weights(started_from(place)).path == run / "model.safetensors"


def test_parts_that_do_not_fit_start_anew(tmp_path: Path) -> None:
    theirs = public_model()
    study = started_from(finished_run(tmp_path / "run", theirs), metadata=True, train="full")
    mine, again = build_study_classifier(study), build_study_classifier(study)
    assert same(mine, theirs, "trunk.")
    assert not mine.head.weight.any()
    assert same(mine, again, "")
    # The new branch depends on the study's seed alone.
    other = build_study_classifier(study.model_copy(update={"seed": 1}))
    assert same(mine, other, "trunk.", "head.")
    assert not same(mine, other, "metadata.")


def test_studies_on_different_runs_are_different_studies(tmp_path: Path) -> None:
    one, two = (finished_run(tmp_path / f"run{seed}", public_model(seed=seed)) for seed in (1, 2))
    copy = shutil.copytree(one, tmp_path / "copy")
    sealed = [seal(started_from(run)) for run in (one, two, copy)]
    assert sealed[0].model.weights_sha256 == sha256(one / "model.safetensors")
    assert sealed[0].digest == sealed[2].digest != sealed[1].digest
    # Once sealed, another run in the same place is refused.
    swapped = sealed[0].with_changes("model", weights=str(two))
    with pytest.raises(WeightsError, match="the study says"):
        build_study_classifier(swapped)


def test_a_run_of_another_backbone_is_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", public_model())
    with pytest.raises(WeightsError, match=r"a run of simple_cnn, but the study's is squeezenet1_1$"):
        build_study_classifier(started_from(run, backbone="squeezenet1_1"))


def test_a_run_whose_network_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    model = public_model()
    model.backbone, other = "squeezenet1_1", started_from(tmp_path / "run", backbone="squeezenet1_1")
    finished_run(tmp_path / "run", model)
    with pytest.raises(WeightsError, match=r"squeezenet1_1: the run's network is of another kind"):
        build_study_classifier(other)


@pytest.mark.parametrize("theirs", [None, 6])
def test_a_run_without_the_studys_neck_is_refused(tmp_path: Path, theirs: int | None) -> None:
    run = finished_run(tmp_path / "run", public_model(neck=theirs))
    with pytest.raises(
        StudyError, match=r"model\.neck is 5, but the run .*model\.safetensors has another neck, or none"
    ):
        build_study_classifier(started_from(run, neck=5))


def test_a_neck_that_the_study_does_not_want_is_left_out(tmp_path: Path) -> None:
    theirs = public_model(neck=6)
    mine = build_study_classifier(started_from(finished_run(tmp_path / "run", theirs)))
    assert mine.neck is None
    assert same(mine, theirs, "trunk.")
    assert not mine.head.weight.any()


def test_a_federated_study_has_no_neck_without_a_run(weights: Path) -> None:
    study = PRETRAINED.with_changes("model", weights=str(weights), neck=8, train="head")
    expected = r"model\.neck is 8, but .*squeezenet1_1\.pth is no finished run: name one in model\.weights"
    with pytest.raises(StudyError, match=expected) as excinfo:
        build_study_classifier(study)
    assert "\n" not in str(excinfo.value)


def test_a_central_study_gets_its_neck_in_the_end_if_it_fits(weights: Path) -> None:
    study = PRETRAINED.model_copy(update={"federation": FederationSpec(mode="central")})
    study = study.with_changes("model", weights=str(weights), neck=8)
    assert build_study_classifier(study).neck is None
    too_many = study.with_changes("model", neck=4096)
    with pytest.raises(StudyError, match=r"model\.neck is 4096, but the backbone gives 1792 features"):
        build_study_classifier(too_many)
