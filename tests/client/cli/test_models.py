"""`melfed-client model`: what it prints, and how it leaves."""

import json
from pathlib import Path

import pytest
from PIL import Image

from melfed.client.config.clinic import ClinicConfig
from melfed.common.audit.log import read_log
from tests.client.commands import Command
from tests.client.models.delivered import FACTS, RUN, STUDY, TENSORS, clinic_for_models, deliveries, question
from tests.common.export.models import pictures
from tests.common.metrics.normal_scores import exact, scores

NAME = f"{STUDY.digest[:12]}-{RUN}"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClinicConfig:
    monkeypatch.setenv("MELFED_CLINIC", str(tmp_path / "clinic.yaml"))
    monkeypatch.setenv("SUDO_USER", "it")
    found = clinic_for_models(tmp_path)
    deliveries(found).take(question(), lambda: TENSORS)
    return found


def test_list_and_show_say_what_is_told_of_it(command: Command, config: ClinicConfig) -> None:
    assert command("model", "list").out.startswith(f"{NAME}  small, simple_cnn, received 20")
    (row,) = json.loads(command("model", "list", "--json").out)
    assert row["facts"] == FACTS.model_dump(mode="json")
    assert json.loads(command("model", "show", "small", "--json").out) == row
    said = " ".join(command("model", "show", NAME[:5]).out.split())
    for words in (STUDY.digest, "No medical device", "none: trained without differential privacy", row["signer"]):
        assert words in said


def test_a_picture_has_a_line_and_what_is_none_an_error(command: Command, config: ClinicConfig, tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    done = command("model", "predict", "small", tmp_path / "a.png")
    assert (done.code, done.out.endswith(f"\t{tmp_path / 'a.png'}\n")) == (0, True)
    assert 0 < float(done.out.split("\t")[0]) < 1
    done = command("model", "predict", "small", tmp_path / "b.png", tmp_path / "a.png", "--json")
    assert done.code == 4
    bad, good = json.loads(done.out)
    assert bad["probability"] is None
    assert good["logit"] is not None
    assert "error: " in done.err
    assert "no readable image" in done.err


def test_a_picture_is_explained_beside_its_score(command: Command, config: ClinicConfig, tmp_path: Path) -> None:
    Image.fromarray(pictures(1)[0]).save(tmp_path / "a.png")
    done = command("model", "predict", "small", tmp_path / "a.png", "--explain", tmp_path / "out.png")
    assert (done.code, (tmp_path / "out.png").is_file()) == (0, True)
    assert done.out.endswith("a.png\n")
    again = command("model", "predict", "small", tmp_path / "a.png", "--explain", tmp_path / "out.png")
    assert (again.code, "exists; name another" in again.err, again.out) == (4, True, "")


def test_a_model_that_is_not_here(command: Command, config: ClinicConfig) -> None:
    done = command("model", "show", "other")
    assert done.code == 6
    assert f"no model 'other' here: {NAME}" in done.err


def test_a_part_that_there_is_not(command: Command, config: ClinicConfig) -> None:
    done = command("model", "evaluate", "small", "--part", "all")
    assert (done.code, "known are train, validation, test" in done.err) == (4, True)


def test_export_writes_a_file(command: Command, config: ClinicConfig, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    done = command("model", "export", "small", "--format", "safetensors", "--out", out)
    assert (done.code, out.exists()) == (0, True)
    assert "the probability is not calibrated" in done.err


def test_remove_deletes_it_and_says_who(command: Command, config: ClinicConfig) -> None:
    assert command("model", "remove", "small").out == f"removed {NAME}\n"
    assert not list(config.models.iterdir())
    row = list(read_log(config.audit_log))[-1]
    assert (row["event"], row["by"], row["model"]) == ("model-removed", "it", NAME)
    assert "no model is here" in command("model", "list").out


@pytest.mark.parametrize("options", [(), ("--sensitivity", "1.5"), ("--sensitivity", "0.9", "--specificity", "0.9")])
def test_an_operating_point_is_one_of_both(command: Command, config: ClinicConfig, options: tuple[str, ...]) -> None:
    done = command("model", "operating-point", "small", *options)
    assert done.code == 2
    assert "give one of both, between 0 and 1" in " ".join(done.err.replace("│", " ").split())


def test_an_operating_point_of_the_clinics_own_images(
    command: Command, config: ClinicConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    many, few = exact(*scores(200, 800)), exact(*scores(10, 50))
    monkeypatch.setattr("melfed.client.models.own_scores.own_scores", lambda _here, _model: (many, 0.5))
    done = command("model", "operating-point", "small", "--sensitivity", "0.9")
    assert done.code == 0
    assert done.out.startswith("sensitivity 0.9: call a probability of 0.")
    assert "charged to the ledger: ε is 0.5000 in all" in done.err
    told = json.loads(command("model", "operating-point", "small", "--specificity", "0.9", "--json").out)
    assert told["specificity"]["value"] == pytest.approx(0.9)
    assert 0 < told["threshold"] < 1
    monkeypatch.setattr("melfed.client.models.own_scores.own_scores", lambda _here, _model: (few, None))
    done = command("model", "operating-point", "small", "--sensitivity", "0.9")
    assert done.code == 4
    assert "with a melanoma would be needed in the part; ask for less" in " ".join(done.err.split())
