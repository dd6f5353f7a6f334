"""Simulated runs whose processes are killed, or that begin beside files and folders of others; in real processes."""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from melfed.common.errors import QuorumError
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


def at_work(place: Place, engine: str) -> list[int]:
    """The processes that train clinics."""
    if engine == "ray":
        return of_run(place, "ray::ClientAppActor.run")
    mine = of_run(place)
    return [pid for pid in mine if psutil.Process(pid).ppid() in mine]  # forked from the prepared one


def begun(place: Place, run: Path, engine: str) -> subprocess.Popen[str]:
    """A run whose second round is being trained."""
    process = place.start(SIM, "run", place.study, "--out", run, "--engine", engine)
    until(process, (run / "checkpoints" / "round-000001.safetensors").exists)
    until(process, lambda: at_work(place, engine))
    return process


def gone(place: Place) -> None:
    """Wait until no process of the place's runs is left."""
    deadline = time.monotonic() + SECONDS
    while of_run(place):
        assert time.monotonic() < deadline
        time.sleep(0.01)


ENGINES = pytest.mark.parametrize("engine", ["local", "ray"])


@ENGINES
def test_a_killed_process_costs_no_clinic_its_round(engine: str, place: Place) -> None:
    run = place.folder / "run"
    process = begun(place, run, engine)
    os.kill(at_work(place, engine)[0], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, err
    rounds = json.loads((run / "summary.json").read_text())["rounds"]
    assert [(len(row["answered"]), row["failed"]) for row in rounds] == [(6, {}), (6, {})]
    assert err.count("its process was ended (killed, or out of memory); asked again") == 1
    assert "raylet" not in out + err
    assert not list(temporary(place).glob("*melfed*"))
    assert not of_run(place)


def test_clinics_whose_process_dies_each_time_are_late_and_the_run_says_so(place: Place) -> None:
    """Kill whatever is forked; the run must end by itself, for want of clinics."""
    run = place.folder / "run"
    process = begun(place, run, "local")
    while process.poll() is None:
        for pid in at_work(place, "local"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == QuorumError.exit_code, err
    last = err.splitlines()[-1]
    assert re.match(r"error: \d of 6 clinics answered, 6 are needed: ", last)
    assert "its process was ended (killed, or out of memory), 3 times" in last or "no process is left" in last
    assert "Traceback" not in out + err
    gone(place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_a_run_is_ended_nothing_of_it_is_left(number: signal.Signals, place: Place) -> None:
    run = place.folder / "run"
    process = begun(place, run, "local")
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # Ctrl-C reaches all
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in out + err
    gone(place)
    if number == signal.SIGINT:
        assert not list(temporary(place).iterdir())
    resumed = place.start(SIM, "run", place.study, "--resume", run)
    _, err = resumed.communicate(timeout=SECONDS)
    assert resumed.returncode == 0, err
    assert not list(temporary(place).glob("*melfed*"))


def test_ray_killed_is_one_line_of_ours(place: Place) -> None:
    run = place.folder / "run"
    process = begun(place, run, "ray")
    os.kill(of_run(place, "gcs/gcs_server")[0], signal.SIGKILL)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 6
    (line,) = [line for line in err.splitlines() if "round" not in line and "synthetic" not in line]
    assert line.startswith(
        f"error: {run}: Ray could not go on (one of its processes has ended: killed, or out of memory)"
    )
    assert "--resume" in line
    assert out == ""
    gone(place)  # Ray's own agents end by themselves, a moment after the run
    assert not list(temporary(place).glob("*melfed*"))


@ENGINES
def test_files_of_the_same_names_in_the_current_folder_are_not_taken_for_ours(engine: str, place: Place) -> None:
    for name in ("client", "common", "server", "simulations", "numpy", "torch"):
        (place.folder / f"{name}.py").write_text("raise RuntimeError('not melfed')\n")
    short = ("--set", "training.local_epochs=1", "--set", "federation.rounds=1", "--engine", engine)
    place.run(SIM, "run", place.study, "--out", place.folder / "run", *short)
    (row,) = json.loads((place.folder / "run" / "summary.json").read_text())["rounds"]
    assert (len(row["answered"]), row["failed"]) == (6, {})


@ENGINES
def test_two_runs_that_begin_in_one_second_have_two_folders_and_what_a_killed_one_left_is_cleared(
    engine: str, place: Place
) -> None:
    dead = begun(place, place.folder / "dead", engine)
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    left = list(temporary(place).glob("melfed-sim-*"))
    assert left
    short = ("--set", "training.local_epochs=1", "--set", "federation.rounds=1", "--engine", engine)
    both = [place.start(SIM, "run", place.study, *short) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, err
    assert len(list((place.folder / "runs").iterdir())) == 2
    assert not any(path.exists() for path in left)
    gone(place)  # Ray's own agents end by themselves, a moment after the run
