"""From a finished run to numbers: its summary, its model on other images, and single predictions."""

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from melfed.common.errors import DataError, MelfedError, RunError, WeightsError
from melfed.common.metrics.exact import histogram_metrics
from melfed.common.metrics.histogram import ScoreHistogram
from melfed.common.model.classifier import build_trunk
from melfed.common.tensors import load_tensors, save_tensors
from melfed.server.results.evaluate import evaluate_run, load_model, predict, public_data, save_model, summarise
from melfed.server.runs.counts import Counts
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.server.runs.summary import DataSummary
from tests.server.fakes import scores_of
from tests.server.finished import DATA, finish, labelled, network, picture, study_with


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def refusal(function, *arguments) -> str:
    with pytest.raises(MelfedError) as caught:
        function(*arguments)
    assert isinstance(caught.value, RunError)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same_network(left: torch.nn.Module, right: torch.nn.Module) -> None:
    a, b = left.state_dict(), right.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_model_comes_back(tmp_path: Path) -> None:
    study = study_with(metadata=True, dropout=0.3)
    folder, model = finish(tmp_path / "run", study)
    loaded_study, loaded = load_model(RunFolder.open(folder.path))
    assert loaded_study == study
    assert_same_network(loaded, model)


@pytest.mark.parametrize("train", ["head", "full"])
def test_a_pretrained_model_comes_back_without_its_weights_file(tmp_path: Path, train: str) -> None:
    study = study_with(backbone="shufflenet_v2_x1_0", pretrained=True, train=train, weights_sha256="5" * 64)
    trunk = build_trunk("shufflenet_v2_x1_0", pretrained=True)
    tensors = {n: t for n, t in trunk.state_dict().items() if not n.endswith("num_batches_tracked")}
    state = {name: tensor + 0.01 * torch.rand_like(tensor) for name, tensor in tensors.items()}
    folder, model = RunFolder.create(tmp_path / "run", study), network(study, state)
    save_model(folder.model, model, study, DATA)
    _, loaded = load_model(folder)
    assert_same_network(loaded, model)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        logits = model.eval()(images)
        assert logits.isfinite().all()
        assert torch.equal(loaded.eval()(images), logits)


def test_the_models_file_names_its_study(run: Path) -> None:
    tensors, metadata = load_tensors(run / "model.safetensors")
    assert metadata == {"study": study_with().digest, "backbone": "simple_cnn", "data": DATA.model_dump(mode="json")}
    assert tensors["head.weight"].shape == (1, 11)


def test_a_warm_start_says_what_it_was_trained_on(tmp_path: Path) -> None:
    """The public data of a study are those of the run that it starts from, and of no other file of weights."""
    model = {"backbone": "shufflenet_v2_x1_0", "pretrained": True}
    trunk = build_trunk("shufflenet_v2_x1_0", pretrained=True).state_dict()
    imagenet = tmp_path / "shufflenet_v2_x1_0.pth"
    torch.save(trunk, imagenet)
    assert public_data(study_with()) is None
    assert public_data(study_with(**model, weights=str(imagenet))) is None
    assert public_data(study_with(**model), tmp_path) is None
    study = study_with(**model, weights_sha256="5" * 64)
    folder = RunFolder.create(tmp_path / "run", study)
    state = {name: tensor for name, tensor in trunk.items() if not name.endswith("num_batches_tracked")}
    save_model(folder.model, network(study, state), study, DATA)
    assert public_data(study_with(**model, weights=str(folder.path))) == DATA
    assert public_data(study_with(**model, weights=str(folder.model))) == DATA
    with pytest.raises(WeightsError, match="SHA-256"):
        public_data(study_with(**model, weights=str(folder.path), weights_sha256="5" * 64))


def test_a_header_that_is_damaged_is_told_in_one_line(tmp_path: Path) -> None:
    public, _ = finish(tmp_path / "public", study_with())
    tensors, metadata = load_tensors(public.model)
    save_tensors(public.model, tensors, {**metadata, "data": {"study": 3}})
    study = study_with(pretrained=True, weights=str(public.path))
    with pytest.raises(WeightsError, match=r"model.safetensors: its header is damaged \(.+\); bring it back"):
        public_data(study)


@pytest.mark.parametrize(
    "damaged",
    [
        {"event": "round", "round": 1},
        {"event": "validation", "round": 1},
        {"event": "validation", "round": 1, "histogram": 3},
        {"event": "validation", "round": 1, "histogram": {"low": [1], "high": [0], "negatives": [1], "positives": [1]}},
    ],
)
def test_an_event_that_is_damaged_is_told_in_one_line(damaged: dict[str, object], tmp_path: Path) -> None:
    folder, _ = finish(tmp_path / "run", study_with())
    folder.append(damaged)
    nothing = DataSummary(
        folder="here", layout="x", images=0, melanomas=0, groups=0, groups_by="group", synthetic=False, left_out=()
    )
    with pytest.raises(RunError, match=r"metrics.jsonl: an event is damaged \(.+\); bring it back") as caught:
        summarise(folder.study(), folder, nothing, Outcome({}, {}, {}), 1.0, "cpu")
    assert "\n" not in str(caught.value)


def test_an_unfinished_run_has_no_model(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", study_with())
    assert "the run has not finished (no model.safetensors)" in refusal(load_model, folder)


def test_a_local_baseline_has_a_model_a_clinic_and_one_is_to_be_named(tmp_path: Path, data: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with("local"))
    folder.model.unlink()
    assert "the run has not finished" in refusal(load_model, folder)
    shifts = {"north": 0.0, "st. mary/2": 4.0}
    for name, shift in shifts.items():
        with torch.no_grad():
            model.head.bias.fill_(shift)
        save_model(folder.path / f"model-{quote(name, safe=' ,()')}.safetensors", model, folder.study(), DATA)
    assert refusal(load_model, folder).endswith("has a model a clinic; name one with --clinic: north, st. mary/2")
    assert "no clinic 'south'; name one with --clinic: north, st. mary/2" in refusal(load_model, folder, "south")
    picture = data / "images" / "000.png"
    north, mary = (predict(folder.path, [picture], name)[0].logit for name in shifts)
    assert mary - north == pytest.approx(4.0, abs=1e-5)


def test_a_run_with_one_model_takes_no_clinics_name(run: Path) -> None:
    assert "one model of all clinics; leave out --clinic" in refusal(load_model, RunFolder.open(run), "north")


def test_a_flipped_byte_in_the_model_is_refused(tmp_path: Path) -> None:
    folder, _ = finish(tmp_path / "run", study_with())
    content = bytearray(folder.model.read_bytes())
    content[-2] ^= 0x40
    folder.model.write_bytes(content)
    assert "model.safetensors: damaged: it holds other than what was written" in refusal(load_model, folder)


def test_another_studys_model_is_refused(tmp_path: Path) -> None:
    folder, model = finish(tmp_path / "run", study_with())
    save_model(folder.model, model, study_with(dropout=0.5), DATA)
    assert f"made by study {study_with(dropout=0.5).digest[:12]}, not" in refusal(load_model, folder)


@pytest.mark.parametrize("damage", ["cut", "lacks", "shape", "unknown"])
def test_a_damaged_model_is_refused(tmp_path: Path, damage: str) -> None:
    folder, _ = finish(tmp_path / "run", study_with())
    tensors, metadata = load_tensors(folder.model)
    if damage == "cut":
        folder.model.write_bytes(folder.model.read_bytes()[:-10])
    else:
        bias = tensors.pop("head.bias")
        altered = {"lacks": {}, "shape": {"head.bias": np.zeros((2,), np.float32)},
                   "unknown": {"head.bias": bias, "more": bias}}  # fmt: skip
        save_tensors(folder.model, {**tensors, **altered[damage]}, metadata)
    assert "model.safetensors: " in refusal(load_model, folder)


def test_metrics_are_scikit_learns_on_the_same_scores(run: Path, data: Path, cache: Path) -> None:
    evaluation = evaluate_run(run, data, cache)
    metrics = evaluation.metrics
    images = sorted((data / "images").iterdir())
    scores = np.array([prediction.probability for prediction in predict(run, images)], float)
    targets = np.array([int(path.stem) % 3 == 0 for path in images])
    assert len(set(scores.tolist())) == 30, "the scores must differ for this to mean anything"
    assert (metrics.images, metrics.melanomas, metrics.patients) == (30, 10, 20)
    assert metrics.auroc.value == pytest.approx(roc_auc_score(targets, scores), abs=1e-9)
    assert metrics.auprc.value == pytest.approx(average_precision_score(targets, scores), abs=1e-9)
    assert metrics.brier == pytest.approx(brier_score_loss(targets, scores), abs=1e-6)
    assert evaluation.left_out == ()


def test_scores_are_the_networks_own(run: Path, data: Path) -> None:
    from melfed.common.data.augmentation import to_input
    from melfed.common.data.images.decoder import decode
    from melfed.common.model.backbones import BACKBONES

    path, spec = data / "images" / "004.png", BACKBONES["simple_cnn"]
    _, model = load_model(RunFolder.open(run))
    inputs = to_input(decode(path, 32)[None], spec.mean, spec.std, None, torch.device("cpu"))
    with torch.no_grad():
        expected = float(torch.sigmoid(model.eval()(inputs)))
    assert predict(run, [path])[0].probability == pytest.approx(expected, abs=1e-6)


def test_progress_is_told_while_decoding_and_while_scoring(run: Path, data: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    evaluate_run(run, data, tmp_path, lambda done, total: told.append((done, total)))
    assert told.count((30, 30)) == 2, "once when all are decoded and once when all are scored"
    told.clear()
    evaluate_run(run, data, tmp_path, lambda done, total: told.append((done, total)))
    assert told.count((30, 30)) == 1, "decoded images are kept"


def test_unusable_images_are_left_out_by_name(run: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 12)
    (data / "images" / "003.png").write_bytes(b"no picture")
    evaluation = evaluate_run(run, data, tmp_path / "cache")
    assert evaluation.metrics.images == 11
    assert [item.image for item in evaluation.left_out] == ["images/003.png"]
    assert evaluation.left_out[0].reason


def test_no_usable_image_is_an_error(run: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 3)
    for path in (data / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of its 3 images can be used; see melfed-sim data"):
        evaluate_run(run, data, tmp_path / "cache")


def test_a_folder_of_one_class_has_no_auroc(run: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 6)
    table = data / "metadata.csv"
    table.write_text(table.read_text().replace(".png,1,", ".png,0,"))
    metrics = evaluate_run(run, data, tmp_path / "cache").metrics
    assert metrics.melanomas == 0
    assert metrics.auroc.value is None
    assert metrics.brier is not None


def test_a_model_that_needs_metadata_evaluates_tables_alone(tmp_path: Path, data: Path, cache: Path) -> None:
    folder, _ = finish(tmp_path / "run", study_with(metadata=True))
    assert evaluate_run(folder.path, data, cache).metrics.images == 30
    assert "its model needs age, sex and site" in refusal(predict, folder.path, [data / "images" / "000.png"])


def test_an_image_that_cannot_be_read_does_not_end_the_rest(run: Path, data: Path, tmp_path: Path) -> None:
    broken, missing, good = tmp_path / "broken.png", tmp_path / "missing.png", data / "images" / "000.png"
    broken.write_bytes((data / "images" / "001.png").read_bytes()[:200])
    predictions = predict(run, [broken, good, missing, good])
    assert [prediction.image for prediction in predictions] == [broken, good, missing, good]
    assert [prediction.probability is None for prediction in predictions] == [True, False, True, False]
    assert predictions[1].probability == predictions[3].probability
    assert 0 < predictions[1].probability < 1
    for prediction in (predictions[0], predictions[2]):
        assert prediction.problem
        assert prediction.image.name not in prediction.problem, "the command names it already"


def test_an_images_prediction_does_not_depend_on_its_company(run: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, path in enumerate(paths):
        picture(path, seed)
    together = [prediction.probability for prediction in predict(run, paths)]
    alone = [predict(run, [path])[0].probability for path in paths]
    assert together == alone


def counts(images: int) -> Counts:
    numbers = {
        f"{part}_{what}": images // share
        for part in ("train", "validation", "test")
        for what, share in (("images", 1), ("positives", 4), ("groups", 2))
    }
    return Counts(numbers=numbers)


def test_a_summary_pools_the_clinics_and_joins_the_rounds(tmp_path: Path) -> None:
    study = study_with()
    folder = RunFolder.create(tmp_path / "run", study)
    row = {"train_loss": 0.5, "seconds": 1.0, "bytes_up": 4, "bytes_down": 5, "answered": ["a"], "failed": {"b": "ill"}}
    validation = scores_of("a", "validation", 9)
    for number in (1, 2):
        folder.append({"event": "round", "round": number, **row})
    folder.append({"event": "validation", "round": 1, "histogram": validation.to_lists()})
    test = {name: scores_of(name, "test", 12) for name in ("a", "b")}
    outcome = Outcome({"": {}}, {"a": counts(8), "b": counts(16), "c": counts(4)}, test, {"b": test["a"] + test["b"]})
    data = DataSummary(folder="here", layout="melfed", images=84, melanomas=21, groups=42, groups_by="patient",
                       synthetic=False, left_out=())  # fmt: skip
    summary = summarise(study, folder, data, outcome, 12.5, "cpu")
    folder.write_summary(summary)
    assert folder.summary() == summary
    assert summary.test == histogram_metrics(test["a"] + test["b"])
    assert [(c.name, c.images, c.melanomas, c.patients) for c in summary.clinics] == [
        ("a", 24, 6, 12), ("b", 48, 12, 24), ("c", 12, 3, 6)
    ]  # fmt: skip
    assert summary.clinics[0].test == histogram_metrics(test["a"])
    assert summary.clinics[2].test == histogram_metrics(ScoreHistogram.empty()), "it did not answer"
    assert summary.clinics[1].everywhere == summary.test
    assert summary.clinics[0].everywhere is None
    assert [r.round for r in summary.rounds] == [1, 2]
    assert summary.rounds[0].validation == histogram_metrics(validation)
    assert summary.rounds[1].validation is None
    assert summary.rounds[0].failed == {"b": "ill"}
    assert (summary.mode, summary.seconds, summary.device, summary.privacy) == ("federated", 12.5, "cpu", None)
    assert summary.study.digest == study.digest
    assert set(summary.versions) == {"python", "melfed", "flwr", "torch", "torchvision", "numpy"}


def test_rows_without_an_image_are_named(run: Path, tmp_path: Path) -> None:
    data = labelled(tmp_path / "data", 12)
    (data / "images" / "005.png").unlink()
    evaluation = evaluate_run(run, data, tmp_path / "cache")
    assert [item.image for item in evaluation.left_out] == ["images/005.png"]
    assert "no such image" in evaluation.left_out[0].reason


def test_images_that_the_run_was_trained_on_are_counted(tmp_path: Path, data: Path, cache: Path) -> None:
    finish(tmp_path / "run", study_with())
    assert evaluate_run(tmp_path / "run", data, cache).trained_on == 0
    parts = {"train": ["elsewhere/000.jpg", "elsewhere/001.jpg"], "validation": [], "test": ["002.jpg"]}
    RunFolder.open(tmp_path / "run").partition.write_text(json.dumps({"clinic": parts}))
    assert evaluate_run(tmp_path / "run", data, cache).trained_on == 2
