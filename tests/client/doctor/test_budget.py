"""Whether what each approved study will still ask is left."""

from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.doctor.budget import budgets
from melfed.client.privacy.plan import plan_of
from melfed.client.worker.guard import Guard, Protection
from melfed.common.study.file import study_yaml
from melfed.common.study.protocol import ModelSpec, StudyProtocol
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.client.guards import DATA, Work, request
from tests.client.small import small_study


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


PRIVATE = small_study(privacy={"unit": "patient", "noise_multiplier": 8.0, "recipe": "manual"})


@pytest.fixture
def private(config: ClinicConfig) -> Path:
    path = config.folder / "private.yaml"
    path.write_text(study_yaml(PRIVATE), encoding="utf-8")
    return path


def spend(config: ClinicConfig, *rounds: int, run: str = "run", study: StudyProtocol = PRIVATE) -> None:
    prepare_worker(config)
    guard = Guard(study, Protection(config.ledger), DATA)
    for number in rounds:
        guard.pay("training", request(round_number=number, run=run), Work())


def test_the_doctor_says_which_approved_study_could_not_be_ended(
    command: Command, config: ClinicConfig, private: Path
) -> None:
    assert budgets(config).status == "ok"
    command("approve", private)
    assert budgets(config).status == "ok"
    tight = a_clinic(config.folder, policy={"epsilon": plan_of(PRIVATE).epsilon * 0.99})
    found = budgets(tight)
    assert found.status == "warning"
    assert found.detail.startswith("study small, a run to come: too little is left of these patients' ε")
    spend(config, 1)
    assert budgets(tight).detail.startswith("study small, run run: too little is left of these patients' ε")
    spend(config, 2)
    (config.approvals / f"{PRIVATE.digest}.json").write_text("{}")
    assert budgets(tight).status == "failed"
