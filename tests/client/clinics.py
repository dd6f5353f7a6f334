"""Deployed clinics in a folder, for the tests of what reads their clinic.yaml."""

from pathlib import Path
from typing import Any

import yaml

from melfed.client.config.clinic import ClinicConfig, read_clinic


def clinic_text(**sections: Any) -> str:
    """A clinic.yaml with what a deployed clinic must state, and no port that two tests could want."""
    content: dict[str, Any] = {
        "name": "north",
        "coordinator": {"host": "127.0.0.1", "port": 9},
        "data": {"folder": "data"},
        "health_port": None,
        "metrics_port": None,
        "policy": {"epsilon": 3.0},
    }
    return yaml.safe_dump({**content, **sections}, allow_unicode=True)


def a_clinic(folder: Path, **sections: Any) -> ClinicConfig:
    """The configuration of a clinic whose kit is in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clinic.yaml").write_text(clinic_text(**sections), encoding="utf-8")
    return read_clinic(folder / "clinic.yaml")
