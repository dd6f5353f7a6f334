"""Whatever dies at the coordinator, in the middle of a run: the run goes on by itself, and nothing is lost.

One server conducts two runs on end, and has something killed in nearly every round of them: an open one, whose model
must be the undisturbed simulation's, and a private one, whose ledgers must hold every charge once.
"""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from melfed.common.audit.events import Event
from tests.e2e.federation import Federation, needs_nginx, processes, until
from tests.e2e.place import SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(900)]

CLINICS = ("phantom_north", "phantom_south")
WORKING_SECONDS = 0.3
"""Of processor time since the round began: a worker has its model and data by then, and trains."""
CANCEL_SECONDS = 20.0
"""SuperNodes ask every 5 s whether the run goes on; the rest is for a machine that is busy."""

ROUNDS = 5
STUDY = """\
name: {name}
data: {{image_size: 48}}
partition: {{by: source{floor}}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{{training}optimizer: sgd, learning_rate: 0.05, warmup_steps: 0, augment: false}}
federation: {{rounds: {rounds}, deadline_seconds: 600}}
privacy: {privacy}
"""
FEW = {"floor": ", minimum_images: 4"}
LONG = STUDY.format(name="long", training="batch_size: 8, local_epochs: 250, ", **FEW, rounds=1, privacy="null")
OPEN = STUDY.format(name="open", training="batch_size: 8, local_epochs: 60, ", **FEW, rounds=ROUNDS, privacy="null")
PRIVATE = STUDY.format(
    name="private",
    training="",
    floor="",
    rounds=4,
    privacy="{unit: patient, epsilon: 8, delta: 1e-5, recipe: manual, sampling_rate: 0.5, steps: 20}",
)


@dataclass
class Faults:
    """A federation, what was done to its server, and how long the round then took."""

    federation: Federation
    seconds: dict[str, float] = field(default_factory=dict)
    kept: set[tuple[str, str]] = field(default_factory=set)
    """Runs, and faults after which the same ServerApp went on."""

    def study(self, name: str, text: str) -> Path:
        """Have a study sealed and approved."""
        path = self.federation.folder / f"{name}.yaml"
        path.write_text(text)
        sealed = path.with_suffix(".sealed.yaml")
        self.federation.run(SERVER, "study", path, "--out", sealed)
        for clinic in CLINICS:
            self.federation.clinic(clinic, "approve", sealed)
        return sealed

    def follow(self, *arguments: object) -> None:
        """Begin a run, or go on with it, and follow it."""
        self.federation.start("follower", SERVER, "run", *arguments)

    def followed(self) -> tuple[int, str]:
        """Wait until the run has ended; return the exit code of `melfed-server run`, and what it has said so far."""
        code = self.federation.daemons.pop("follower").wait(timeout=300)
        return code, (self.federation.folder / "follower.log").read_text()

    def await_training(self, run: str, number: int, clinics: tuple[str, ...] = CLINICS) -> None:
        """Wait until the clinics compute in a round."""
        until(f"round {number} of {run}", lambda: self.federation.state(run).get("round") == number - 1)
        # Before the first round a worker is busy with what it loads.
        until("described", lambda: all(self._described(run, clinic) for clinic in clinics))
        workers = {worker: processor_seconds(worker) for worker in map(self._worker, clinics)}

        def train() -> bool:
            return all(processor_seconds(worker) > began + WORKING_SECONDS for worker, began in workers.items())

        until("training", train, every=0.05)
        assert self.federation.state(run)["round"] == number - 1, "the round is too short for this test"

    def _described(self, run: str, clinic: str) -> bool:
        asked = (Event.REQUEST_ANSWERED.id, "describe", run)  # each run is named like its study
        return any((row["id"], row.get("kind"), row.get("study")) == asked for row in self.federation.audit(clinic))

    def _worker(self, clinic: str) -> Path:
        """The kernel's word on a clinic's worker."""
        kit = str(self.federation.kit(clinic))
        # The oldest: a child looks like its parent until it has become what it is to be.
        pid = min(pid for pid, command in processes() if f"melfed.client.cli.main worker --config {kit}" in command)
        return Path(f"/proc/{pid}/stat")

    def strike(self, name: str, run: str, number: int, fault: Callable[[], object]) -> None:
        """Do something to the server in a round, and wait until that round is over."""
        before, pid, started = self.resumptions(run), self.serverapp(), time.monotonic()
        fault()
        until(f"round {number} over, after {name}", lambda: self.federation.state(run)["round"] >= number)
        self.seconds[name] = round(time.monotonic() - started, 1)
        if self.serverapp() == pid and self.resumptions(run) == before:
            self.kept.add((run, name))

    def serverapp(self) -> int | None:
        """The process that conducts a run."""
        config = str(self.federation.server)
        found = [
            pid for pid, command in processes() if "melfed.server.cli.main serverapp" in command and config in command
        ]
        return min(found, default=None)

    def resumptions(self, run: str) -> int:
        """How often a run was gone on with under a new Flower run."""
        identity = self.identity(run)
        return sum(
            row["id"] == Event.RUN_RESUMED.id and row["run"] == identity for row in self.federation.audit("server")
        )

    def identity(self, run: str) -> str:
        """What ledgers and audit logs call a run."""
        return (self.federation.server / "runs" / run / "run-id").read_text().strip()

    def kill(self, name: str) -> None:
        """Kill one of the server's processes."""
        marker = "nginx: master" if name == "nginx" else f"melfed.server.cli.main {name}"
        self.federation.kill(marker, str(self.federation.server))

    def kill_daemon(self) -> None:
        """Kill the daemon, and leave it to its keeper to end the rest; start it again at once."""
        self.federation.stop("server", signal.SIGKILL)
        self.federation.start_server()

    def kill_all(self) -> None:
        """Kill the daemon with all processes below it, all at once; start it again."""
        for pid in self.federation.descendants("server"):
            os.kill(pid, signal.SIGKILL)
        self.federation.daemons.pop("server").wait(timeout=60)
        self.federation.start_server()

    def end_server(self) -> None:
        """End the server as systemd does, and start it again."""
        assert self.federation.stop("server") == 0
        assert not self.federation.descendants("server")
        self.federation.start_server()

    def charges(self, clinic: str, run: str, status: str) -> list[tuple[str, int]]:
        """Purpose and round of the rows of a clinic's ledger about a run; none before the run has begun."""
        if not (self.federation.server / "runs" / run / "run-id").exists():
            return []
        rows = []
        for path in sorted(self.federation.kit(clinic).glob("state/**/*.jsonl")):
            if path.name != "audit.jsonl":
                rows += [json.loads(line) for line in path.read_text().splitlines()]
        identity = self.identity(run)
        return [
            (row["purpose"], row["round"]) for row in rows if (row.get("run"), row.get("status")) == (identity, status)
        ]


def processor_seconds(stat: Path) -> float:
    """Processor time of a process so far."""
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    """A federation of two clinics that is online."""
    folder = tmp_path_factory.mktemp("server-faults")
    federation = Federation(folder, folder / "lesions", CLINICS, {"non_private": True})
    federation.run(SIM, "phantom", federation.lesions, "--clinics", 2, "--images", 160, "--size", 48)
    try:
        federation.start_all()
        yield Faults(federation)
    finally:
        federation.close()


@pytest.fixture(scope="module")
def opened(faults: Faults) -> tuple[int, str]:
    """The open run, through all faults: how its follower ended, and what it said."""
    faults.follow(faults.study("open", OPEN), "--out", "open")

    def beside() -> None:
        faults.kill("superexec")
        faults.kill("nginx")

    table: dict[str, Callable[[], object]] = {
        "serverapp": lambda: faults.kill("serverapp"),
        "superlink": lambda: faults.kill("superlink"),
        "superexec and nginx": beside,
        "all": faults.kill_all,
        "SIGTERM": faults.end_server,
    }
    for number, (name, fault) in enumerate(table.items(), start=1):
        faults.await_training("open", number)
        faults.strike(name, "open", number, fault)
    return faults.followed()


@pytest.fixture(scope="module")
def private(faults: Faults, opened: tuple[int, str]) -> str:
    """A private run through faults at moments that matter to ledgers; its name."""
    assert opened
    name = "private"
    faults.follow(faults.study(name, PRIVATE), "--out", name)

    def charged(clinic: str, status: str, purpose: str, number: int) -> Callable[[], bool]:
        return lambda: (purpose, number) in faults.charges(clinic, name, status)

    def both() -> None:
        faults.kill("superexec")
        faults.kill("serverapp")

    until("reserved", charged(CLINICS[0], "reserved", "training", 1), every=0.05)
    faults.strike("superexec and serverapp", name, 1, both)
    until("one has answered", charged(CLINICS[1], "released", "training", 2), every=0.05)
    faults.strike("daemon alone", name, 2, faults.kill_daemon)
    until("reserved", charged(CLINICS[0], "reserved", "training", 3), every=0.05)
    faults.strike("superlink, private", name, 3, lambda: faults.kill("superlink"))
    until("in the final evaluation", lambda: faults.federation.state(name)["round"] == 4, every=0.05)
    faults.kill("serverapp")
    code, said = faults.followed()
    assert code == 0, said
    return name


def test_a_run_goes_on_by_itself_whatever_dies(faults: Faults, opened: tuple[int, str]) -> None:
    """Lost: nothing. No hand but the one that starts the server again."""
    code, said = opened
    assert code == 0, said
    state = faults.federation.state("open")
    assert (state["status"], state["wanted"], state["round"]) == ("completed", False, ROUNDS)
    # What does not conduct the run can die without the run's noticing; everything else makes a new Flower run.
    assert {name for run, name in faults.kept if run == "open"} == {"superlink", "superexec and nginx"}
    identity = faults.identity("open")
    rows = [row for row in faults.federation.audit("server") if row.get("run") == identity]
    resumed = [row["round"] for row in rows if row["id"] == Event.RUN_RESUMED.id]
    assert resumed == [0, 3, 4]  # the rounds before those in which the ServerApp died, alone or with the server
    assert len({row["flower_run"] for row in rows if row["id"] == Event.RUN_SUBMITTED.id}) == 4
    assert [row["id"] for row in rows].count(Event.RUN_COMPLETED.id) == 1


def test_no_round_counts_twice(faults: Faults, opened: tuple[int, str]) -> None:
    """Lost: nothing, and nothing is there twice."""
    assert opened[0] == 0
    events = faults.federation.events("open")
    assert [event["round"] for event in events if event["event"] == "round"] == list(range(1, ROUNDS + 1))
    for event in events:
        if event["event"] == "round":
            assert event["answered"] == list(CLINICS)
            assert not event["failed"]
    assert [event["round"] for event in events if event["event"] == "validation"] == list(range(1, ROUNDS + 1))
    assert Counter(event["clinic"] for event in events if event["event"] == "test") == dict.fromkeys(CLINICS, 1)


def test_the_model_is_the_undisturbed_simulations(faults: Faults, opened: tuple[int, str]) -> None:
    """Lost: nothing, to the last bit."""
    assert opened[0] == 0
    simulated = faults.federation.simulate(faults.federation.folder / "open.yaml", "simulated")
    folders = (simulated, faults.federation.server / "runs" / "open")
    expected, found = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in folders)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert np.array_equal(tensor, found[name]), name
    theirs, mine = (json.loads((folder / "summary.json").read_text())["test"] for folder in folders)
    assert mine == theirs


def test_whoever_follows_a_run_is_told_that_the_server_has_ended(opened: tuple[int, str]) -> None:
    """Lost: nothing. `melfed-server run` waits for the server, says so, and shows the run's end."""
    said = opened[1]
    assert said.count("the server has ended; run open goes on once it is started again: melfed-server start") == 2
    assert said.count("the server runs again") == 2
    assert "report: " in said
    assert "Traceback" not in said


def test_each_charge_is_made_once(faults: Faults, private: str) -> None:
    """Lost: no budget. What was reserved is taken up again, and what was released is sent again."""
    expected = {("counts", 0), *((purpose, n) for purpose in ("training", "evaluation") for n in range(1, 5))}
    for clinic in CLINICS:
        for status in ("reserved", "spent", "released"):
            assert Counter(faults.charges(clinic, private, status)) == dict.fromkeys(expected, 1), (clinic, status)
        assert "chain whole" in faults.federation.clinic(clinic, "ledger", "verify")
    events = faults.federation.events(private)
    assert [event["round"] for event in events if event["event"] == "round"] == [1, 2, 3, 4]


def test_the_audit_logs_are_whole(faults: Faults, private: str) -> None:
    """Lost: not a line of what happened, though its writers were killed."""
    assert faults.federation.state(private)["status"] == "completed"
    assert "chain whole" in faults.federation.run(SERVER, "log", "verify")
    for clinic in CLINICS:
        assert "chain whole" in faults.federation.clinic(clinic, "log", "verify")
    ended: dict[str, Any] = Counter(
        row["child"] for row in faults.federation.audit("server") if row["id"] == Event.SERVER_CHILD_ENDED.id
    )
    assert ended == {"superlink": 2, "superexec": 2, "nginx": 1}


def test_stopping_a_run_stops_the_training_at_the_clinic(faults: Faults) -> None:
    """Lost: the round that was under way, as asked for. It is trained again when the run is resumed."""
    clinic = CLINICS[0]
    faults.follow(faults.study("long", LONG), "--out", "long", "--clinics", clinic)
    faults.await_training("long", 1, (clinic,))
    faults.federation.run(SERVER, "stop", "long")
    since, asked = time.monotonic(), (Event.REQUEST_CANCELLED.id, faults.identity("long"))

    def cancelled() -> bool:
        return asked in {(row["id"], row.get("run")) for row in faults.federation.audit(clinic)}

    until("training stopped", cancelled, CANCEL_SECONDS)
    faults.seconds["stop"] = round(time.monotonic() - since, 1)
    code, said = faults.followed()
    assert code == 15
    assert "run long: stopped after round 0: stopped by the coordinator" in said
    faults.follow("--resume", "long")
    code, said = faults.followed()
    assert code == 0, said
    assert [event["round"] for event in faults.federation.events("long") if event["event"] == "round"] == [1]
