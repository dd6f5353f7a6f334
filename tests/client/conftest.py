"""A clinic, its command, and studies that it is asked to approve; files that need others define their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from tests.client.approving import PRIVATE
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.client.doctors import PROXIES, Kit, make_kit
from tests.client.fake_worker import Clinic
from tests.client.served import served


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


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def kit(tmp_path: Path, no_proxies: None) -> Kit:
    """Makes the kit of a clinic whose coordinator is at a port of this machine."""

    def make(port: int, host: str = "127.0.0.1", **options: int) -> ClinicConfig:
        return make_kit(tmp_path / "kit", tmp_path / "data", host, port, **options)

    return make


@pytest.fixture
def folder() -> Iterator[Path]:
    """For a socket, whose path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="w # %41") as name:
        yield Path(name)


@pytest.fixture
def clinic(folder: Path) -> Iterator[Clinic]:
    with served(folder) as clinic:
        yield clinic
