"""The clinic's worker: what it answers, what it refuses, and that workers of one process do not disturb each other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from melfed.client.data.clinic_data import ClinicData
from melfed.client.training.plain import Trainer
from melfed.client.worker.evaluation import Evaluated
from melfed.client.worker.worker import ClinicWorker, shared_classifier
from melfed.common.compression import Kind, restored
from melfed.common.data.augmentation import to_input
from melfed.common.data.subgroups import cell_names, cells_of
from melfed.common.errors import StudyError
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.metrics.noisy_histogram import Histogram
from melfed.common.model.backbones import BACKBONES
from melfed.common.model.classifier import load_trainable, trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import TensorError, Tensors
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.client.small import CPU, small_model, small_study


@pytest.fixture(scope="module")
def north(phantom_clinics: VirtualClinics) -> ClinicData:
    return phantom_clinics.clinics[0]


def worker_of(data: ClinicData, study: StudyProtocol, weights_dir: Path | None = None) -> ClinicWorker:
    return ClinicWorker(data, study, weights_dir, CPU)


def start(study: StudyProtocol) -> Tensors:
    """Tensors of a model whose logits differ from image to image."""
    tensors = trainable_tensors(small_model(study))
    return {**tensors, "head.weight": 300 * tensors["head.weight"]}


def assert_equal(one: Histogram | None, two: Histogram | None) -> None:
    assert one is not None
    assert two is not None
    assert one.to_lists() == two.to_lists()


def test_it_describes_itself_by_counts_alone(north: ClinicData) -> None:
    study = small_study()
    description = worker_of(north, study).describe("run")
    assert (description.clinic, description.digest) == ("phantom_north", study.digest)
    expected = {}
    for part in ("train", "validation", "test"):
        records = getattr(north, part)
        expected[f"{part}_images"] = len(records)
        expected[f"{part}_positives"] = sum(record.target for record in records)
        expected[f"{part}_groups"] = len({record.patient_id for record in records})
    assert description.counts == expected
    assert sum(expected[f"{part}_images"] for part in ("train", "validation", "test")) == 48


def test_it_says_whether_its_folder_says_that_its_pictures_are_rendered(north: ClinicData, tmp_path: Path) -> None:
    assert worker_of(north, small_study()).describe().synthetic
    elsewhere = dataclasses.replace(north, root=tmp_path)
    assert not worker_of(elsewhere, small_study()).describe().synthetic


def test_training_is_that_of_the_trainer(north: ClinicData) -> None:
    study = small_study(training={"local_epochs": 2.0})
    seen: list[int] = []
    worker = ClinicWorker(north, study, None, CPU, seen.append)
    reply = worker.train(start(study), 2, study.digest)
    model = small_model(study).to(memory_format=torch.channels_last)
    load_trainable(model, start(study))
    result = Trainer(model, study, CPU).train(north.load("train"), north.name, 2)
    assert reply.tensors.keys() == dict(model.named_parameters()).keys()
    for name, tensor in trainable_tensors(model).items():
        np.testing.assert_array_equal(reply.tensors[name], tensor)
    assert (reply.weight, reply.loss) == (len(north.train), result.loss)
    assert seen[-1] == 2 * len(north.train)


def test_the_validation_is_of_the_model_that_came(north: ClinicData) -> None:
    study = small_study()
    worker = worker_of(north, study)
    before = worker.evaluate(start(study), study.digest)["validation"]
    reply = worker.train(start(study), 2, study.digest)
    assert_equal(reply.validation, before)
    assert worker.evaluate(reply.tensors, study.digest)["validation"].to_lists() != before.to_lists()


def test_only_the_models_that_the_study_says_are_validated(north: ClinicData) -> None:
    study = small_study(federation={"rounds": 5, "validate_every": 3})
    worker = worker_of(north, study)
    tensors = start(study)
    # A round validates the model of the round before.
    replies = {number: worker.train(tensors, number, study.digest) for number in range(1, 6)}
    assert [number for number, reply in replies.items() if reply.validation is not None] == [4]
    assert replies[4].account is None


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("metadata", [False, True])
def test_evaluation_is_scoring_by_hand(north: ClinicData, part: Evaluated, metadata: bool) -> None:
    study = small_study(model={"metadata": metadata})
    model = small_model(study).eval()
    load_trainable(model, start(study))
    images = north.load(part)
    backbone = BACKBONES["simple_cnn"]
    inputs = to_input(images.pixels(range(len(images))), backbone.mean, backbone.std, None)
    with torch.no_grad():
        logits = model(inputs, torch.from_numpy(images.metadata) if metadata else None)
    middle = logits.mean()
    logits -= middle
    assert np.ptp(logits.numpy()) > 1e-2
    tensors = start(study)
    tensors["head.bias"] = tensors["head.bias"] - middle.numpy()
    scored = worker_of(north, study).evaluate(tensors, study.digest)
    assert scored.keys() == {"validation", "test"}
    histogram = scored[part]
    expected = ScoreHistogram.from_scores(logits.double().numpy(), [r.target for r in images.records], images.groups)
    # Sums are in units of 2^-36, and float32 has less.
    for name, array in expected.to_arrays().items():
        np.testing.assert_allclose(histogram.to_arrays()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_exact_subgroups_are_the_test_part_by_what_its_patients_are(north: ClinicData) -> None:
    study = small_study(evaluation={"subgroups": ("sex", "source", "skin_type")})
    scored = worker_of(north, study).evaluate(start(study), study.digest)
    cells = {name.removeprefix("subgroups/"): h for name, h in scored.items() if name.startswith("subgroups/")}
    assert tuple(cells) == cell_names(("sex", "skin_type"))
    images = north.load("test")
    sexes = cells_of(images.records, images.groups, "sex")
    for number in range(3):
        assert cells[f"sex/{number}"].images == (sexes == number).sum()
    assert 0 < cells["sex/0"].images < len(images)
    whole = cells["sex/0"] + cells["sex/1"] + cells["sex/2"]
    assert whole.to_lists() == scored["test"].to_lists() == cells["skin_type/6"].to_lists(), "no table has skin types"


def test_another_study_is_refused(north: ClinicData) -> None:
    study, other = small_study(), small_study(seed=1)
    worker = worker_of(north, study)
    expected = f"clinic phantom_north holds study {study.digest[:12]}, not {other.digest[:12]}"
    with pytest.raises(StudyError, match=expected):
        worker.train(start(study), 1, other.digest)
    with pytest.raises(StudyError, match=expected):
        worker.evaluate(start(study), other.digest)


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("head.bias", None, r"lacks head\.bias"),
        ("head.extra", np.zeros(1, np.float32), r"has unknown head\.extra"),
        ("head.bias", np.zeros(2, np.float32), r"head\.bias has shape \(2,\), not \(1,\)"),
        ("head.bias", np.zeros(1), r"head\.bias is float64, not float32"),
        ("head.bias", np.full(1, np.nan, np.float32), r"head\.bias holds values that are not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_nothing_loaded(
    north: ClinicData, name: str, tensor: np.ndarray | None, reason: str
) -> None:
    study = small_study()
    worker = worker_of(north, study)
    good = start(study)
    worker.evaluate(good, study.digest)
    bad = {key: np.ones_like(value) for key, value in good.items()}
    bad[name] = tensor
    bad = {key: value for key, value in bad.items() if value is not None}
    for ask in (
        lambda: worker.train(bad, 1, study.digest),
        lambda: worker.evaluate(bad, study.digest),
    ):
        with pytest.raises(TensorError, match=reason):
            ask()
    loaded = trainable_tensors(shared_classifier(study, None, CPU))
    assert all((loaded[key] == value).all() for key, value in good.items())


def test_workers_of_one_process_share_a_network_and_do_not_disturb_each_other(phantom_clinics: VirtualClinics) -> None:
    study = small_study(training={"augment": True})
    tensors = start(study)
    shared_classifier.cache_clear()
    alone = []
    for data in phantom_clinics.clinics[:2]:
        worker = worker_of(data, study)
        replies = [worker.train(tensors, 1, study.digest)]
        replies.append(worker.train(replies[0].tensors, 2, study.digest))
        alone.append((replies, worker.evaluate(replies[1].tensors, study.digest)))
        shared_classifier.cache_clear()
    one, two = (worker_of(data, study) for data in phantom_clinics.clinics[:2])
    first = [one.train(tensors, 1, study.digest), two.train(tensors, 1, study.digest)]
    second = [two.train(first[1].tensors, 2, study.digest), one.train(first[0].tensors, 2, study.digest)][::-1]
    tests = [worker.evaluate(reply.tensors, study.digest) for worker, reply in zip((one, two), second, strict=True)]
    assert shared_classifier.cache_info().misses == 1
    for (replies, test), *mixed in zip(alone, first, second, tests, strict=True):
        for part in ("validation", "test"):
            assert_equal(test[part], mixed[2][part])
        assert mixed[0].validation is None, "there is no round before the first"
        assert_equal(replies[1].validation, mixed[1].validation)
        for reply, other in zip(replies, mixed[:2], strict=True):
            assert reply.loss == other.loss
            for name, tensor in reply.tensors.items():
                np.testing.assert_array_equal(tensor, other.tensors[name])
    assert not np.array_equal(first[0].tensors["head.weight"], first[1].tensors["head.weight"])


def test_a_reply_is_a_copy(north: ClinicData) -> None:
    study = small_study()
    worker = worker_of(north, study)
    tensors = start(study)
    reply = worker.train(tensors, 1, study.digest)
    kept = {name: tensor.copy() for name, tensor in reply.tensors.items()}
    worker.train(tensors, 2, study.digest)
    assert all((kept[name] == tensor).all() for name, tensor in reply.tensors.items())
    assert all((tensors[name] == tensor).all() for name, tensor in start(study).items())


def test_images_are_opened_once_however_many_workers_there_are(
    phantom_clinics: VirtualClinics, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    load = ClinicData.load
    monkeypatch.setattr(ClinicData, "load", lambda self, part: opened.append((self.name, part)) or load(self, part))
    study = small_study()
    workers = [worker_of(data, study) for data in phantom_clinics.clinics]
    tensors = start(study)
    for _ in range(2):
        for worker in workers:
            worker.describe()
            worker.train(tensors, 1, study.digest)
            worker.evaluate(tensors, study.digest)
    assert len(opened) == len(set(opened)) == 3 * len(workers)


def test_a_clinic_without_validation_images_answers_with_an_empty_histogram(north: ClinicData) -> None:
    study = small_study(model={"metadata": True})
    data = ClinicData(north.name, north.root, north.cache, 32, north.train, (), north.test)
    worker = worker_of(data, study)
    assert worker.describe("run").counts["validation_images"] == 0
    reply = worker.train(start(study), 2, study.digest)
    assert_equal(reply.validation, ScoreHistogram.empty())


def test_only_a_study_that_stops_early_is_evaluated_a_second_time(north: ClinicData) -> None:
    study = small_study(federation={"rounds": 2})
    stops = study.with_changes("federation", stop={"metric": "auroc", "patience": 1})
    assert worker_of(north, stops).evaluate(start(stops), stops.digest, "run", 3)
    for asked, number in ((study, 3), (stops, 4)):
        with pytest.raises(StudyError, match=f"no evaluation after round {number}"):
            worker_of(north, asked).evaluate(start(asked), asked.digest, "run", number)


def test_an_algorithm_that_keeps_state_needs_a_place_for_it(north: ClinicData) -> None:
    study = small_study(federation={"algorithm": "ditto"})
    with pytest.raises(StudyError, match="keeps state at the clinic"):
        worker_of(north, study).train(start(study), 1, study.digest, "run")


@pytest.fixture
def squeezenet_weights(tmp_path: Path) -> Path:
    """A folder of weights that are anything but ImageNet's, for the right network."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(torchvision.models.squeezenet1_1(weights=None).state_dict(), tmp_path / "squeezenet1_1.pth")
    return tmp_path


@pytest.mark.parametrize("train", ["head", "last_block", "full"])
def test_only_what_learns_travels_and_changes(north: ClinicData, squeezenet_weights: Path, train: str) -> None:
    model = {"backbone": "squeezenet1_1", "pretrained": True, "train": train}
    study = small_study(model=model, training={"optimizer": "sgd", "learning_rate": 0.1})
    fresh = build_study_classifier(study, squeezenet_weights)
    worker = worker_of(north, study, squeezenet_weights)
    learns = {name for name, parameter in fresh.named_parameters() if parameter.requires_grad}
    everything = {name for name, _ in fresh.named_parameters()}
    if train == "head":
        assert learns == {"head.weight", "head.bias"}
    assert (learns == everything) == (train == "full")
    tensors = trainable_tensors(fresh)
    tensors["head.weight"] = np.full_like(tensors["head.weight"], 0.1)
    reply = worker.train(tensors, 1, study.digest)
    assert reply.tensors.keys() == learns
    after = dict(shared_classifier(study, squeezenet_weights, CPU).named_parameters())
    for name, parameter in fresh.named_parameters():
        if name not in learns:
            assert torch.equal(parameter, after[name]), name
    assert all(not np.array_equal(tensors[name], reply.tensors[name]) for name in ("head.weight", "head.bias"))
    load_trainable(fresh, reply.tensors)


@pytest.mark.parametrize(("kind", "bytes_a_value"), [("float16", 2), ("int8", 1)])
def test_a_compressed_update_is_the_difference_and_another_in_each_round(
    north: ClinicData, kind: Kind, bytes_a_value: int
) -> None:
    study = small_study()
    told = study.with_changes("federation", compression=kind)
    model = start(study)
    exact = worker_of(north, study).train(model, 1, study.digest, "run").tensors
    worker = worker_of(north, told)
    sent = worker.train(model, 1, told.digest, "run").tensors
    assert {name: array.nbytes for name, array in sent.items()} == {
        name: 4 + bytes_a_value * tensor.size for name, tensor in model.items()
    }
    for name, tensor in restored(sent, model, kind).items():
        change = np.abs(exact[name] - model[name]).max()
        assert np.abs(tensor - exact[name]).max() <= change / (100 if kind == "int8" else 1000)
    again = worker_of(north, told).train(model, 1, told.digest, "run").tensors
    assert {n: a.tobytes() for n, a in again.items()} == {n: a.tobytes() for n, a in sent.items()}
    seeds = [seed for round_number in (1, 2) for seed in seeds_of(worker, model, round_number)]
    assert len(set(seeds)) == 2


def seeds_of(worker: ClinicWorker, model: Tensors, round_number: int) -> list[int]:
    """The seeds that chance has in one round."""
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "melfed.client.training.local_round.compressed",
            lambda update, _model, _kind, seed: seen.append(seed) or update,
        )
        worker.train(model, round_number, worker.study.digest, "run")
    return seen
