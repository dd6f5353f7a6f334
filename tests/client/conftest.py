"""A clinic, its command, and studies that it is asked to approve; files that need others define their own."""

from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from tests.client.approving import PRIVATE
from tests.client.clinics import a_clinic
from tests.client.commands import Command


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


@pytest.fixture
def private(config: ClinicConfig) -> Path:
    path = config.folder / "private.yaml"
    path.write_text(study_yaml(PRIVATE), encoding="utf-8")
    return path
