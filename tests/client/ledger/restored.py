"""A clinic whose ledger is charged, copied, put back or removed."""

import shutil
from dataclasses import replace
from pathlib import Path

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.data.loading import population
from melfed.client.ledger.ledger import Ledger, verify
from melfed.client.ledger.witness import Witness
from melfed.client.worker.guard import Guard, Protection
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, read_log
from tests.client.clinics import a_clinic
from tests.client.guards import DATA, STUDY, Work, request
from tests.client.worker.test_changed_data import list_patients

FILES = ("ledger.jsonl", "ledger.jsonl.head", "ledger.key")


def clinic_of_24(folder: Path) -> ClinicConfig:
    """A clinic of 24 patients, whose images nobody looks at."""
    config = a_clinic(folder / "kit", policy={"epsilon": 100.0, "studies": "any", "runs": 9})
    config.data_folder.mkdir()
    for number in range(24):
        (config.data_folder / f"{number}.png").touch()
    list_patients(config, range(24))
    prepare_worker(config)
    return config


def started(config: ClinicConfig) -> Guard:
    """The guard of a worker that has begun, of the clinic's population."""
    witness = Witness(config.ledger, AuditLog(config.audit_log, "worker"))
    witness.begin()
    data = replace(DATA, population=tuple(population(config)))
    return Guard(STUDY, Protection(config.ledger, config.policy, witness), data)


def rounds(config: ClinicConfig, *numbers: int, run: str = "run") -> None:
    guard = started(config)
    for number in numbers:
        guard.pay("training", request(round_number=number, run=run), Work())


def backup(config: ClinicConfig, name: str) -> Path:
    folder = config.folder / name
    folder.mkdir()
    for file in FILES:
        shutil.copy2(config.worker_state / file, folder / file)
    return folder


def restore(config: ClinicConfig, folder: Path) -> None:
    for path in (*config.worker_state.glob("ledger.*"),):
        path.unlink()
    for file in FILES:
        shutil.copy2(folder / file, config.worker_state / file)


def epsilon(config: ClinicConfig) -> float:
    data = verify(config.ledger).data
    assert data is not None
    return Ledger.open(config.ledger, data).epsilon(1e-5)


def told(config: ClinicConfig, event: Event) -> list[dict]:
    return [row for row in read_log(config.audit_log) if row["id"] == event.id]


def remove(config: ClinicConfig, *files: str) -> None:
    for file in files or FILES:
        (config.worker_state / file).unlink()
