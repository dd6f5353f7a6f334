"""Whole simulated runs in real processes: the same numbers twice, after a kill, and with nothing reported home."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.place import SERVER, SIM, Place

STUDY = """\
name: small
data: {image_size: 48, phantom: {images: 600, clinics: 3, melanoma_rate: 0.4}}
model: {backbone: simple_cnn, pretrained: false}
training: {learning_rate: 3e-3, batch_size: 16, local_epochs: 10, warmup_steps: 0}
federation: {rounds: 6, algorithm: fedavgm, server_momentum: 0.5}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("simulation"), STUDY)


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    """An uninterrupted run."""
    place.run(SIM, "run", place.study, "--out", place.folder / "finished")
    return place.folder / "finished"


def model_of(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    return safetensors.numpy.load_file(run / "model.safetensors")


def numbers_of(run: Path) -> dict[str, Any]:
    """A run's summary without what depends on the clock."""
    summary = json.loads((run / "summary.json").read_text())
    summary.pop("seconds")
    for row in summary["rounds"]:
        row.pop("seconds")
    return summary


def assert_same_run(one: Path, other: Path) -> None:
    expected, found = model_of(one), model_of(other)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert np.array_equal(tensor, found[name]), name
    assert numbers_of(one) == numbers_of(other)


def test_a_run_leaves_all_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {"study.yaml", "summary.json", "metrics.jsonl", "model.safetensors", "checkpoints", "report.html"} <= names
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["data"]["synthetic"] is True
    assert len(summary["rounds"]) == 6
    assert all(row["validation"]["auroc"]["value"] is not None for row in summary["rounds"])
    assert summary["test"]["images"] == sum(clinic["test"]["images"] for clinic in summary["clinics"])


def test_it_learns(finished: Path) -> None:
    """Far above chance: with this many test images, chance reaches 0.6 in less than one run in a hundred."""
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["rounds"][-1]["train_loss"] < summary["rounds"][0]["train_loss"]
    assert summary["test"]["auroc"]["value"] > 0.6


def test_nothing_is_written_to_the_home_folder_or_sent_out(finished: Path, place: Place) -> None:
    assert finished.exists()
    assert [str(path) for path in place.home.rglob("*")] == []
    assert not place.log.exists(), place.log.read_text()


def test_the_same_study_gives_the_same_numbers(finished: Path, place: Place) -> None:
    place.run(SIM, "run", place.study, "--out", place.folder / "again")
    assert_same_run(finished, place.folder / "again")


def test_ray_gives_the_same_numbers(finished: Path, place: Place) -> None:
    place.run(SIM, "run", place.study, "--out", place.folder / "ray", "--engine", "ray")
    assert_same_run(finished, place.folder / "ray")


def test_a_killed_run_goes_on_to_the_same_numbers(finished: Path, place: Place) -> None:
    run = place.folder / "killed"
    process = place.start(SIM, "run", place.study, "--out", run)
    place.kill(process, (run / "checkpoints" / "round-000002.safetensors").exists)
    assert not (run / "summary.json").exists()
    place.run(SIM, "run", place.study, "--resume", run)
    assert_same_run(finished, run)


def test_resuming_a_finished_run_or_another_study_is_refused(finished: Path, place: Place) -> None:
    for extra, words in (([], "finished already"), (["--set", "training.batch_size=8"], "not")):
        code, _, err = place.answer(SIM, "run", place.study, "--resume", finished, *extra)
        assert code == 6
        assert words in err
        assert "Traceback" not in err


@pytest.mark.parametrize("mode", ["central", "local"])
def test_baselines_are_judged_on_the_same_images(mode: str, finished: Path, place: Place) -> None:
    run = place.folder / mode
    place.run(SIM, "run", place.study, "--out", run, "--set", f"federation.mode={mode}")
    ours, theirs = numbers_of(finished), numbers_of(run)
    assert theirs["mode"] == mode
    for clinic, other in zip(ours["clinics"], theirs["clinics"], strict=True):
        assert clinic["name"] == other["name"]
        assert clinic["test"]["melanomas"] == other["test"]["melanomas"]
        assert (other["everywhere"] is not None) == (mode == "local")
    assert (run / "partition.json").read_text() == (finished / "partition.json").read_text()


def test_evaluate_and_predict_use_the_final_model(finished: Path, place: Place) -> None:
    (data,) = (place.folder / "cache" / "phantom").iterdir()
    metrics = json.loads(place.run(SERVER, "evaluate", finished, "--data", data, "--json"))
    assert metrics.keys() == json.loads((finished / "summary.json").read_text())["test"].keys()
    assert metrics["images"] == 600
    pictures = sorted((data / "images").iterdir())[:3]
    lines = place.run(SERVER, "predict", finished, *pictures).splitlines()
    assert [line.split("\t")[1] for line in lines] == [str(picture) for picture in pictures]
    assert all(0 <= float(line.split("\t")[0]) <= 1 for line in lines)
