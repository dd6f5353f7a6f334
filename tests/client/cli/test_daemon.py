"""`melfed-client start`, `status`, `doctor` and the processes: what each calls, and how it leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.common.doctor.steps import Check
from tests.client.clinics import a_clinic
from tests.client.commands import Command

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    return a_clinic(tmp_path)


def test_start_says_in_one_line_that_there_is_no_clinic(command: Command, tmp_path: Path) -> None:
    for arguments in (("start", tmp_path / "none.yaml"), ("worker", "--config", tmp_path / "none.yaml")):
        done = command(*arguments)
        assert (done.code, done.out, done.err.count("\n")) == (11, "", 1)


@pytest.mark.parametrize("role", ["worker", "supernode", "messenger"])
def test_each_process_is_one_call(
    command: Command, config: ClinicConfig, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ClinicConfig] = []
    module = types.ModuleType("fake")
    module.main = asked.append  # type: ignore[attr-defined]
    module.serve = lambda here, stop: asked.append(here)  # type: ignore[attr-defined]
    of_role = {"worker": "worker.process", "supernode": "flower.supernode", "messenger": "flower.superexec"}
    monkeypatch.setitem(sys.modules, f"melfed.client.{of_role[role]}", module)
    with_port = a_clinic(config.folder, health_port=9095)
    monkeypatch.setattr("melfed.client.cli.daemon._begin", lambda: None)
    monkeypatch.setattr("melfed.client.cli.daemon._until_told", threading.Event)
    assert command(role, "--config", with_port.path).code == 0
    assert [here.path for here in asked] == [config.path]
    # The health port is the daemon's.
    assert asked[0].file.health_port == (None if role == "worker" else 9095)


@pytest.mark.parametrize("failed", [False, True])
def test_doctor_prints_what_it_finds_and_leaves_with_1_for_a_cross(
    command: Command, config: ClinicConfig, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check("disk", "failed" if failed else "warning", "10 MB are left", "free space")]
    seen: list[ClinicConfig] = []

    def examine(here: ClinicConfig, on_check: object = None) -> list[Check]:
        seen.append(here)
        return checks

    monkeypatch.setattr("melfed.client.doctor.examination.examine", examine)
    done = command("doctor", config.path)
    assert done.code == int(failed)
    assert "free space" in done.out
    done = command("doctor", "--json", "--config", config.path)
    assert done.code == int(failed)
    assert json.loads(done.out)[0]["mend"] == "free space"
    # A clinic.yaml that is not complete is something to examine.
    config.path.write_text("policy: {epsilon: 3}")
    assert command("doctor", config.path).code == int(failed)
    assert seen[-1].file.data is None


def test_carry_leaves_within_seconds_of_sigterm(tmp_path: Path) -> None:
    """The real command; its children cannot start for want of keys, so it waits to start them again."""
    with socket.create_server(("127.0.0.1", 0)) as line:
        port = line.getsockname()[1]
    config = a_clinic(tmp_path, messenger={"port": port})
    arguments = [sys.executable, "-P", "-m", "melfed.client.cli.main", "carry", "--config", str(config.path)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "supernode started" in line:
                break
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "Traceback" not in said
