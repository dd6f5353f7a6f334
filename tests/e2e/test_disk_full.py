"""Disks that fill up in the middle of a run, at a clinic and at the server, and a database that is locked.

Lost: nothing. What cannot be written is told in one line, what was there before stays whole, and all goes on once there
is space: at the clinic with the next request, at the server by itself. The model is the simulation's to the last bit.

The state folders are small file systems in memory of their own, which a ballast file fills to the last byte.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.federation import Federation, needs_nginx, until
from tests.e2e.place import SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(900)]

VICTIM, OTHER = CLINICS = ("phantom_north", "phantom_south")
MEGABYTES = 300
"""Of each file system. The server warns below 256."""
PIECE_BYTES = 2**24
LOCKED_SECONDS = 20.0
ROUNDS = 5
AT_CLINIC, AT_RUNS, AT_STATE, LOCKED = 2, 3, 4, 5
"""The rounds in which something happens."""
STUDY = f"""\
name: full
data: {{image_size: 48}}
partition: {{by: source, minimum_images: 4}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.01, warmup_steps: 0, augment: false, batch_size: 4, local_epochs: 10}}
federation: {{rounds: {ROUNDS}, quorum: 1.0, deadline_seconds: 300}}
privacy: null
"""
PRIVATE = """\
name: private
data: {image_size: 48}
partition: {by: source}
model: {backbone: simple_cnn, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.1, warmup_steps: 0, augment: false}
federation: {rounds: 2, quorum: 1.0, deadline_seconds: 300}
privacy: {unit: patient, epsilon: 8, delta: 1.0e-5, recipe: manual, sampling_rate: 0.5, steps: 40}
"""
NO_SPACE = "No space left on device"


class Disk:
    """A small file system of its own in place of a folder, with what lay there; it can be full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        before = folder.with_name(f"{folder.name}-before")
        shutil.copytree(folder, before)
        options = f"size={MEGABYTES}m,mode=0700"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        shutil.copytree(before, folder, dirs_exist_ok=True)
        shutil.rmtree(before)

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """Nothing more can be written meanwhile."""
        ballast = self.folder / "ballast"
        with ballast.open("wb") as file:
            # Others write at the same time, and what does not fit whole is not there in part.
            while free := self.free():
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, min(free, PIECE_BYTES))
        try:
            yield
        finally:
            ballast.unlink()

    def free(self) -> int:
        """Bytes that can still be written."""
        usage = os.statvfs(self.folder)
        return usage.f_bavail * usage.f_frsize

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)


@dataclass
class Told:
    """What a fault looked like while it lasted, and how long the recovery took."""

    seconds: float = 0.0
    state: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Narrow(Federation):
    """A federation with little space."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "lesions", CLINICS, {"non_private": True, "studies": "any"})
        self.disks: dict[str, Disk] = {}

    def narrow(self) -> None:
        for name, path in {
            "clinic": self.kit(VICTIM) / "state",
            "state": self.server / "state",
            "runs": self.server / "runs",
        }.items():
            self.disks[name] = Disk(path)
        (self.kit(VICTIM) / "state").chmod(0o711)

    def close(self) -> None:
        super().close()
        with contextlib.suppress(OSError):  # for whoever has to look at a failed test
            shutil.copytree(self.server / "state" / "logs", self.folder / "logs")
        for disk in self.disks.values():
            disk.close()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def rounds(self, run: str) -> int:
        """How many rounds are final."""
        return int(self.state(run).get("round", 0))

    def audited(self, name: str, *events: int) -> list[dict[str, Any]]:
        return [row for row in self.audit(name) if row["id"] in events]

    def wait(self, run: str, status: str) -> None:
        until(f"run {run} is {status}", lambda: self.state(run).get("status") == status)

    def start_run(self, sealed: Path, name: str) -> None:
        self.run(SERVER, "run", sealed, "--out", name, "--detach")

    def sealed(self, name: str, words: str) -> Path:
        path, sealed = self.folder / f"{name}.yaml", self.folder / f"{name}-sealed.yaml"
        path.write_text(words)
        self.run(SERVER, "study", path, "--out", sealed)
        return sealed


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    federation = Narrow(tmp_path_factory.mktemp("full"))
    try:
        federation.narrow()
        federation.run(SIM, "phantom", federation.lesions, "--clinics", 2, "--images", 80, "--size", 48, "--seed", 5)
        federation.start_all()
        yield federation
    finally:
        federation.close()


@dataclass
class Disturbed:
    """What came of the run in which all of it happened."""

    run: Path
    simulated: Path
    told: dict[int, Told]
    names: list[str]


@pytest.fixture(scope="module")
def disturbed(federation: Narrow) -> Disturbed:
    """A run with a fault a round."""
    federation.start_run(federation.sealed("full", STUDY), "full")
    faults: dict[int, Callable[[Narrow, Told], None]] = {
        AT_CLINIC: fill_clinic,
        AT_RUNS: fill_runs,
        AT_STATE: fill_state,
        LOCKED: lock_database,
    }
    told = {}
    for number, fault in faults.items():
        until(f"round {number - 1}", lambda n=number: federation.rounds("full") >= n - 1)
        assert federation.rounds("full") == number - 1, "the round was over before it could be disturbed"
        told[number] = Told()
        fault(federation, told[number])
        started = time.monotonic()
        until(f"round {number}", lambda n=number: federation.rounds("full") >= n)
        told[number].seconds = time.monotonic() - started
    federation.wait("full", "completed")
    federation.simulate(federation.folder / "full.yaml", "simulated")
    run = federation.server / "runs" / "full"
    return Disturbed(run, federation.folder / "simulated", told, [path.name for path in run.iterdir()])


def fill_clinic(federation: Narrow, told: Told) -> None:
    """The victim cannot store its answer, so that it does not leave; the coordinator hears why, in a word."""
    with federation.disks["clinic"].full():
        federation.wait("full", "failed")
        told.state = federation.state("full")
        told.problems = federation.log(VICTIM).splitlines()
    federation.run(SERVER, "run", "--resume", "full", "--detach")


def fill_runs(federation: Narrow, told: Told) -> None:
    """Neither answers nor checkpoints can be written."""
    with federation.disks["runs"].full():
        log = federation.server / "state" / "logs" / "superexec.log"
        until("the run cannot go on", lambda: NO_SPACE in log.read_text())
        until("it is told", lambda: "2017 disk-full" in federation.log("server"))
        told.problems = problems_of(federation) + log.read_text().splitlines()
        told.state = federation.state("full")


def fill_state(federation: Narrow, told: Told) -> None:
    """Neither Flower's database nor the audit log can be written.

    Somebody reads the database all the while (a backup, say), so that no place in its log is used again.
    """
    before = federation.log("server").count("2017 disk-full")
    with reading(federation.server / "state/flower.db"), federation.disks["state"].full():
        until("it is told", lambda: federation.log("server").count("2017 disk-full") > before)
        # Long enough for several requests of each clinic to fail.
        began = time.monotonic()
        until("it has lasted", lambda: time.monotonic() - began > 15)
        told.problems = problems_of(federation)
        told.state = federation.state("full")


def lock_database(federation: Narrow, told: Told) -> None:
    """Somebody else holds the database for themselves, longer than Flower waits by itself."""
    with contextlib.closing(sqlite3.connect(federation.server / "state/flower.db", timeout=30)) as database:
        database.isolation_level = None
        until("the lock", lambda: locked(database))
        began = time.monotonic()
        until("it has lasted", lambda: time.monotonic() - began > LOCKED_SECONDS, LOCKED_SECONDS + 10)
        database.execute("ROLLBACK")
    told.state = federation.state("full")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.isolation_level = None
        database.execute("BEGIN")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield
        database.execute("ROLLBACK")


def locked(database: sqlite3.Connection) -> bool:
    with contextlib.suppress(sqlite3.OperationalError):
        database.execute("BEGIN EXCLUSIVE")
        return True
    return False


def problems_of(federation: Narrow) -> list[str]:
    """Lines of the daemon's log that say what is wrong."""
    return [line for line in federation.log("server").splitlines() if " ERROR " in line]


def check_database(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return str(database.execute("PRAGMA quick_check").fetchone()[0])


# What came of it.


def test_full_disks_and_a_locked_database_lose_no_round_and_no_tensor(
    disturbed: Disturbed, federation: Narrow, record_property: Callable[[str, object], None]
) -> None:
    for number, told in disturbed.told.items():
        record_property(f"seconds until round {number} was over", told.seconds)
    events = federation.events("full")
    done = [event for event in events if event["event"] == "round"]
    assert [event["round"] for event in done] == list(range(1, ROUNDS + 1))
    for event in done:
        assert event["answered"] == sorted(CLINICS)
    found, expected = (safetensors.numpy.load_file(run / "model.safetensors") for run in _both(disturbed))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def _both(disturbed: Disturbed) -> tuple[Path, Path]:
    return disturbed.run, disturbed.simulated


def test_the_clinic_says_so_in_one_line_and_answers_the_next_request(disturbed: Disturbed, federation: Narrow) -> None:
    told = disturbed.told[AT_CLINIC]
    assert told.state["reason"].startswith("quorum: ")
    assert f"{VICTIM}: StorageError; the clinic's own log says more" in told.state["reason"]
    assert str(federation.kit(VICTIM)) not in told.state["reason"]
    # While the disk is full: the journal alone has it, and it says what could not be written.
    lines = [line for line in told.problems if " 1014 disk-full " in line]
    assert lines
    assert NO_SPACE in lines[0]
    assert not any("Traceback" in line for line in told.problems)
    # Afterwards the audit log has it as well, before the answer.
    rows = federation.audited(VICTIM, 1014, 1007, 1005)
    ids = [row["id"] for row in rows]
    assert ids.index(1014) < len(ids) - 1 - ids[::-1].index(1005)
    assert NO_SPACE in next(row["reason"] for row in rows if row["id"] == 1014)
    assert "free space" in next(row["reason"] for row in rows if row["id"] == 1014)
    federation.clinic(VICTIM, "log", "verify")
    federation.clinic(OTHER, "log", "verify")


def test_the_server_goes_on_by_itself_when_there_is_space_for_runs(disturbed: Disturbed, federation: Narrow) -> None:
    told = disturbed.told[AT_RUNS]
    assert told.state["wanted"]
    assert any(NO_SPACE in line and "free space" in line for line in told.problems)
    assert "are left for runs; free space" in federation.audited("server", 2017)[0]["reason"]
    assert not list((disturbed.run / "checkpoints").glob(".round-*"))


def test_the_server_goes_on_by_itself_when_there_is_space_for_its_state(
    disturbed: Disturbed, federation: Narrow
) -> None:
    told = disturbed.told[AT_STATE]
    assert told.state["wanted"]
    assert any("MiB of disk are left for state; free space" in line for line in told.problems)
    # Held back where it could not be written while the disk was full.
    assert any("are left for state; free space" in row["reason"] for row in federation.audited("server", 2017))
    federation.run(SERVER, "log", "verify")
    assert check_database(federation.server / "state" / "flower.db") == "ok"


def test_no_process_had_to_be_started_by_hand(disturbed: Disturbed, federation: Narrow) -> None:
    """The daemons are those of the beginning, and worker, SuperNodes and nginx have never ended."""
    for name in ("server", *CLINICS):
        assert federation.daemons[name].poll() is None
    for clinic in CLINICS:
        assert not federation.audited(clinic, 1013)
    assert {row["child"] for row in federation.audited("server", 2014)} <= {"superlink", "superexec"}


def test_a_locked_database_holds_the_run_up_and_no_more(disturbed: Disturbed, federation: Narrow) -> None:
    assert disturbed.told[LOCKED].state["status"] == "running"
    assert disturbed.told[LOCKED].state["round"] == LOCKED - 1
    assert check_database(federation.server / "state" / "flower.db") == "ok"


def test_a_full_disk_while_a_private_round_is_charged_costs_no_budget_twice(
    disturbed: Disturbed, federation: Narrow
) -> None:
    """The result of a paid round cannot be stored, so that it does not leave: the charge is taken up again."""
    sealed = federation.sealed("private", PRIVATE)
    ledger = federation.kit(VICTIM) / "state/worker/ledger.jsonl"
    federation.start_run(sealed, "private")

    def charges_of_training() -> list[str]:
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        return [row["status"] for row in rows if row.get("purpose") == "training"]

    until("a reservation", lambda: "reserved" in charges_of_training(), every=0.01)
    with federation.disks["clinic"].full():
        federation.wait("private", "failed")
        federation.clinic(VICTIM, "ledger", "verify")
        during = charges_of_training()
    assert "released" not in during, "the round was over before it could be disturbed"
    federation.run(SERVER, "run", "--resume", "private", "--detach")
    federation.wait("private", "completed")
    for clinic in CLINICS:
        federation.clinic(clinic, "ledger", "verify")
        charges = [json.loads(line) for line in federation.clinic(clinic, "ledger", "export").splitlines()]
        charged = [(charge["purpose"], charge["round"]) for charge in charges]
        assert charged == [("counts", 0), ("training", 1), ("evaluation", 1), ("training", 2), ("evaluation", 2)]
        assert {charge["status"] for charge in charges} == {"released"}
        assert charges[-1]["epsilon"] <= 8
    federation.clinic(VICTIM, "log", "verify")
