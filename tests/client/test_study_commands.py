"""`melfed-client approve`, `revoke`, `studies`: what they print, and how they leave."""

import json
from pathlib import Path

import pytest

from client.approvals import approved
from client.config import ClinicConfig
from common.protocol import ModelSpec, StudyProtocol
from common.study_file import study_yaml
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.common.lesions import touch, write

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClinicConfig:
    monkeypatch.setenv("MELFED_CLINIC", str(tmp_path / "clinic.yaml"))
    monkeypatch.setenv("SUDO_USER", "it")
    return a_clinic(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def study(config: ClinicConfig) -> Path:
    demo = StudyProtocol(name="demo", model=ModelSpec(backbone="simple_cnn", pretrained=False))
    path = config.folder / "study.yaml"
    path.write_text(study_yaml(demo), encoding="utf-8")
    return path


def test_approve_says_what_is_agreed_to_and_what_the_policy_says(
    command: Command, config: ClinicConfig, study: Path
) -> None:
    done = command("approve", study)
    assert done.code == 0
    (approval,) = approved(config)
    assert f"approved {approval.digest} by it\n" in done.out
    said = " ".join(done.out.split())
    assert "nobody: no noise is added, and what leaves here may tell about single patients" in said
    assert done.err.startswith("But this clinic's policy: study demo is declined: it has no privacy section")


def test_check_approves_nothing(command: Command, config: ClinicConfig, study: Path) -> None:
    done = command("approve", study, "--check")
    assert (done.code, approved(config), config.worker_state.exists()) == (0, (), False)
    assert "nothing was approved" in done.out


def test_a_digest_alone_comes_with_a_warning(command: Command, config: ClinicConfig) -> None:
    done = command("approve", DIGEST, "--by", "Dr. Ö")
    assert "the digest alone says nothing of the study" in done.err
    assert approved(config)[0].by == "Dr. Ö"
    assert command("approve", DIGEST[:20]).code == 3
    assert command("approve", DIGEST[:20]).err.count("\n") == 1


def test_studies_lists_approvals_and_what_the_file_approves(
    command: Command, tmp_path: Path, config: ClinicConfig
) -> None:
    assert "no study is approved" in command("studies").out
    command("approve", DIGEST)
    other = a_clinic(tmp_path, policy={"epsilon": 3.0, "studies": ["f" * 64]})
    done = command("studies", "--config", other.path)
    assert [line[:64] for line in done.out.splitlines()] == [DIGEST, "f" * 64]
    content = json.loads(command("studies", "--json").out)
    assert content["policy"] == ["f" * 64, DIGEST]
    assert [approval["digest"] for approval in content["approvals"]] == [DIGEST]


def test_revoke_takes_a_prefix(command: Command, config: ClinicConfig) -> None:
    command("approve", DIGEST)
    done = command("revoke", DIGEST[:6])
    assert (done.code, done.out) == (0, f"revoked {DIGEST}\n")
    assert approved(config) == ()
    again = command("revoke", DIGEST[:6])
    assert (again.code, again.err.count("\n")) == (11, 1)


def test_without_a_clinic_the_places_are_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MELFED_CLINIC", raising=False)
    monkeypatch.setattr("client.config.PLACES", (Path("clinic.yaml"),))
    monkeypatch.chdir(tmp_path)
    done = command("studies")
    assert (done.code, done.out) == (11, "")
    assert "looked for clinic.yaml; name it with --config or MELFED_CLINIC" in done.err


@pytest.fixture
def odd(config: ClinicConfig) -> Path:
    """A data folder of the clinic whose table has a diagnosis that nobody knows."""
    data = config.folder / "data"
    write(data / "table.csv", "image,diagnosis,patient_id", "1.png,melanoma,1", "2.png,nevus,2", "3.png,Klasse 7,3")
    touch(data, "1.png", "2.png", "3.png")
    return data


def with_data(config: ClinicConfig, **section: object) -> ClinicConfig:
    return a_clinic(config.folder, data={"folder": "data", **section})


@pytest.mark.parametrize("what", ["study", "digest"])
def test_approve_says_no_to_diagnoses_that_nobody_knows(
    command: Command, config: ClinicConfig, study: Path, odd: Path, what: str
) -> None:
    here = with_data(config)
    done = command("approve", study if what == "study" else DIGEST)
    assert (done.code, approved(here)) == (4, ())
    assert "'Klasse 7' (1)" in done.err
    assert "NOT KNOWN: map it" in done.out
    assert command("approve", study, "--check").code == 4


@pytest.mark.parametrize("code", ["mel", "leave_out"])
def test_approve_shows_how_the_table_is_read(
    command: Command, config: ClinicConfig, study: Path, odd: Path, code: str
) -> None:
    here = with_data(config, diagnoses={"klasse 7": code})
    done = command("approve", study)
    assert (done.code, len(approved(here))) == (0, 1)
    assert "Klasse 7" in done.out
    assert "patient_id" in done.out
    shown = json.loads(command("approve", study, "--check", "--json").out)
    assert shown["approval"] is None
    assert {use["word"]: use["code"] for use in shown["understood"]["words"]}["melanoma"] == "mel"
    assert json.loads(command("approve", study, "--json").out)["approval"]["by"] == "it"
