"""Simulated runs whose processes are killed, or that begin beside files and folders of others; in real processes."""

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from melfed.simulations.engine.workspace import VARIABLE
from tests.e2e.place import SECONDS, SIM, SIX_CLINICS, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path, SIX_CLINICS)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="m") as short:
        place.environment["TMPDIR"] = short
        yield place


def temporary(place: Place) -> Path:
    return Path(place.environment["TMPDIR"])


def of_run(place: Place, title: str = "") -> list[int]:
    """The processes of this place's runs, and of nobody else's, whose command begins or ends so."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"{VARIABLE}={temporary(place)}/".encode() in (entry / "environ").read_bytes()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if mine and (command.startswith(title) or command.split(" ")[0].endswith(title)):
            found.append(int(entry.name))
    return found


def until(process: subprocess.Popen[str], look: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not look():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def begun(place: Place, run: Path) -> subprocess.Popen[str]:
    """A run whose second round is being trained."""
    process = place.start(SIM, "run", place.study, "--out", run)
    until(process, (run / "checkpoints" / "round-000001.safetensors").exists)
    until(process, lambda: of_run(place, "ray::ClientAppActor.run"))
    return process


def test_a_killed_process_costs_no_clinic_its_round(place: Place) -> None:
    run = place.folder / "run"
    process = begun(place, run)
    os.kill(of_run(place, "ray::ClientAppActor.run")[0], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    rounds = json.loads((run / "summary.json").read_text())["rounds"]
    assert [(len(row["answered"]), row["failed"]) for row in rounds] == [(6, {}), (6, {})]
    assert err.count("its process was ended (killed, or out of memory); asked again") == 1
    assert "raylet" not in out + err
    assert not list(temporary(place).glob("*melfed*"))
    assert not of_run(place)


def test_ray_killed_is_one_line_of_ours(place: Place) -> None:
    run = place.folder / "run"
    process = begun(place, run)
    os.kill(of_run(place, "gcs/gcs_server")[0], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 6
    (line,) = [line for line in err.splitlines() if "round" not in line and "synthetic" not in line]
    assert line.startswith(
        f"error: {run}: Ray could not go on (one of its processes has ended: killed, or out of memory)"
    )
    assert "--resume" in line
    assert out == ""
    assert not of_run(place)
    assert not list(temporary(place).glob("*melfed*"))


def test_files_of_the_same_names_in_the_current_folder_are_not_taken_for_ours(place: Place) -> None:
    for name in ("client", "common", "server", "simulations", "numpy", "torch"):
        (place.folder / f"{name}.py").write_text("raise RuntimeError('not melfed')\n")
    short = ("--set", "training.local_epochs=1", "--set", "federation.rounds=1")
    place.run(SIM, "run", place.study, "--out", place.folder / "run", *short)
    (row,) = json.loads((place.folder / "run" / "summary.json").read_text())["rounds"]
    assert (len(row["answered"]), row["failed"]) == (6, {})


def test_two_runs_that_begin_in_one_second_have_two_folders_and_what_a_killed_one_left_is_cleared(place: Place) -> None:
    dead = begun(place, place.folder / "dead")
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    (left,) = temporary(place).glob("melfed-sim-*")
    short = ("--set", "training.local_epochs=1", "--set", "federation.rounds=1")
    both = [place.start(SIM, "run", place.study, *short) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    assert len(list((place.folder / "runs").iterdir())) == 2
    assert not left.exists()
    deadline = time.monotonic() + SECONDS
    while of_run(place):  # Ray's own agents end by themselves, a moment after the run
        assert time.monotonic() < deadline
        time.sleep(0.01)
