"""`melfed-server export` and `deliver`."""

import json
from pathlib import Path

import pytest
from PIL import Image

from melfed.common.errors import RunError
from melfed.common.tensors import load_tensors
from melfed.server.config import ServerConfig
from melfed.server.results.evaluate import save_model
from melfed.server.results.facts import facts_of
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.request import queue_run, read_request
from melfed.server.runs.state import change_state, read_state
from tests.common.export.models import pictures
from tests.server.cli.commands import call
from tests.server.fake_run import FakeRun
from tests.server.finished import DATA, network, study_with


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run whose study and model are those of the small network."""
    folder = FakeRun().write(tmp_path / "run")
    study = study_with()
    small = RunFolder.create(tmp_path / "small", study)
    (folder.path / "study.yaml").write_bytes((small.path / "study.yaml").read_bytes())
    summary = json.loads((folder.path / "summary.json").read_text())
    summary["study"] |= {"name": study.name, "digest": study.digest}
    (folder.path / "summary.json").write_text(json.dumps(summary))
    save_model(folder.model, network(study), study, DATA)
    return folder


def test_export_writes_the_model_and_what_is_told_of_it(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    told = call("export", str(run.path), "--format", "safetensors", "--out", str(out))
    assert "small, simple_cnn, safetensors" in told
    assert "not calibrated" in told
    tensors, header = load_tensors(out)
    assert tensors.keys() == network(study_with()).state_dict().keys()
    assert header["study_digest"] == run.study().digest


def test_an_unknown_format_is_one_line(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="--format pickle: known are onnx, torch-export, safetensors"):
        call("export", str(run.path), "--format", "pickle", "--out", str(tmp_path / "m"))


@pytest.fixture
def queued(config: ServerConfig) -> RunFolder:
    return queue_run(config.runs / "r", study_with(), ("a",), ())


def test_deliver_asks_the_daemon_for_it(queued: RunFolder) -> None:
    change_state(queued.path, status="completed", wanted=False)
    assert "the model goes to a;" in call("deliver", "r")
    assert read_request(queued.path).delivers == ("a",)
    state = read_state(queued.path)
    assert state is not None
    assert (state.status, state.wanted) == ("queued", True)
    change_state(queued.path, status="completed", wanted=False)
    call("deliver", "r", "--clinics", "b,a,b")
    assert read_request(queued.path).delivers == ("b", "a")


def test_a_run_that_goes_on_and_a_clinic_that_there_is_not_are_told_of(queued: RunFolder) -> None:
    with pytest.raises(RunError, match="has not finished; its clinics get the model when it has"):
        call("deliver", "r")
    change_state(queued.path, status="completed", wanted=False)
    with pytest.raises(RunError, match="no approved clinic is called 'x'; known: a, b"):
        call("deliver", "r", "--clinics", "a,x")
    assert read_request(queued.path).delivers == ()


def test_seen_takes_statistics_that_go_with_the_model(run: RunFolder, tmp_path: Path) -> None:
    for number, picture in enumerate(pictures(90)):
        Image.fromarray(picture).save(tmp_path / f"{number:02}.png")
    assert "statistics of 60 public images; false alarms 0.1" in call(
        "seen", str(run.path), str(tmp_path), "--false-alarms", "0.1"
    )
    out = tmp_path / "m.safetensors"
    call("export", str(run.path), "--format", "safetensors", "--out", str(out))
    assert load_tensors(out)[1]["out_of_distribution"].startswith("of 60 public images")
    assert facts_of(run).seen is not None
    assert "carries no statistics" not in (run.path / "model-card.md").read_text()
    assert "seen.json" in (run.path / "SHA256SUMS").read_text()
    told = call("predict", str(run.path), str(tmp_path / "00.png"), "--json", "--explain", str(tmp_path / "why.png"))
    assert "unlike" in told
    assert (tmp_path / "why.png").is_file()


def test_page_writes_a_folder_with_the_archive_that_is_named_or_one_line(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "other.tgz").write_bytes(b"other")
    with pytest.raises(RunError, match="not onnxruntime-web"):
        call("page", str(run.path), "--out", str(tmp_path / "page"), "--runtime", str(tmp_path / "other.tgz"))
    assert not (tmp_path / "page").exists()
