"""How the commands find a clinic's configuration."""

from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from tests.client.clinics import a_clinic
from tests.client.commands import Command


def test_without_a_clinic_the_places_are_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MELFED_CLINIC", raising=False)
    monkeypatch.setattr("melfed.client.config.clinic.PLACES", (Path("clinic.yaml"),))
    monkeypatch.chdir(tmp_path)
    done = command("studies")
    assert (done.code, done.out) == (11, "")
    assert "looked for clinic.yaml; name it with --config or MELFED_CLINIC" in done.err


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return a_clinic(tmp_path)


def test_the_configuration_is_named_once(command: Command, config: ClinicConfig) -> None:
    assert command("status", config.path, "--config", config.path).code == 2
    assert command("ledger", "show", config.ledger, "--config", config.path).code == 2
