"""Clinics without a network, in the middle of a round: nothing is lost, and nobody has to lend a hand.

Each clinic reaches the coordinator through a gate of its own, which is cut. `MELFED_OUTAGE_SECONDS` is how long the
long outage takes; waiting costs no CPU.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.e2e.federation import Federation, needs_nginx, until
from tests.e2e.gate import Gate
from tests.e2e.place import SERVER, SIM

OUTAGE = float(os.environ.get("MELFED_OUTAGE_SECONDS", "300"))
pytestmark = [needs_nginx, pytest.mark.timeout(OUTAGE + 600)]

VICTIM, *OTHERS = CLINICS = ("phantom_north", "phantom_south", "phantom_east")
"""The victim has most images: it trains for seconds."""
CUT_OFF_SECONDS = 60.0
GRACE = max(OUTAGE - 25.0, 5.0)
"""The run that goes on does so just before the network is back: rounds cost CPU, waiting does not."""
BACK_SECONDS = 45.0
"""Longest from the network's return until a clinic is back in its run."""
SLOW = """\
name: waits
data: {image_size: 48}
partition: {by: source, minimum_images: 4}
model: {backbone: simple_cnn, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.01, warmup_steps: 0, augment: false, batch_size: 4, local_epochs: 40}
federation: {rounds: 3, quorum: 1.0, deadline_seconds: 3600}
privacy: null
"""
QUICK = f"""\
name: goes-on
data: {{image_size: 48}}
partition: {{by: source, minimum_images: 4}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.01, warmup_steps: 0, augment: false}}
federation: {{rounds: 1000, quorum: 0.6, deadline_seconds: 3600, grace_seconds: {GRACE}, validate_every: 1000}}
privacy: null
"""
PRIVATE = """\
name: private
data: {image_size: 48}
partition: {by: source}
model: {backbone: simple_cnn, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.1, warmup_steps: 0, augment: false}
federation: {rounds: 3, quorum: 1.0, deadline_seconds: 3600}
privacy: {unit: patient, epsilon: 8, delta: 1.0e-5, recipe: manual, sampling_rate: 0.5, steps: 150}
"""
WORDS = {"waits": SLOW, "goes-on": QUICK, "private": PRIVATE}


class Cut(Federation):
    """A federation whose clinics' networks can be cut."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, folder / "lesions", CLINICS, {"non_private": True, "studies": "any"})
        self.gates: dict[str, Gate] = {}
        self.simulated: Path | None = None

    def begin(self) -> None:
        """Render the lesions, write the studies, open the gates, and start everybody."""
        self.run(SIM, "phantom", self.lesions, "--clinics", 3, "--images", 120, "--size", 48, "--seed", 5)
        for name, words in WORDS.items():
            self.study(name).write_text(words)
        for clinic in CLINICS:
            gate = self.gates[clinic] = Gate(self.ports["edge"])
            self.configure(clinic, {"coordinator": {"port": gate.port}})
        self.start_all()

    def close(self) -> None:
        """End everything."""
        super().close()
        for gate in self.gates.values():
            gate.close()

    def study(self, name: str) -> Path:
        return self.folder / f"{name}.yaml"

    def submit(self, study: str, run: str) -> str:
        """Start a run; return its identity."""
        self.run(SERVER, "run", self.study(study), "--out", run, "--detach")
        return (self.server / "runs" / run / "run-id").read_text().strip()

    def rounds(self, run: str) -> list[dict[str, Any]]:
        return [event for event in self.events(run) if event["event"] == "round"]

    def await_status(self, run: str, status: str, seconds: float = 120) -> None:
        until(f"run {run} is {status}", lambda: self.state(run).get("status") == status, seconds)

    def expected(self) -> dict[str, np.ndarray[Any, Any]]:
        """The model of the slow study without any fault: simulated, once."""
        if self.simulated is None:
            self.simulated = self.folder / "simulated"
            run = (self.study("waits"), "--data", self.lesions, "--out", self.simulated)
            self.run(SIM, "run", *run, seconds=OUTAGE + 300)
        return model_of(self.simulated)

    def told(self, event: int, **fields: object) -> list[dict[str, Any]]:
        """Rows of the server's audit log."""
        return [row for row in self.audit("server") if row["id"] == event and fields.items() <= row.items()]

    def line(self, clinic: str) -> list[dict[str, Any]]:
        """What a clinic's SuperNode has told of its connection: rows 1016 and 1017."""
        path = self.kit(clinic) / "state" / "messenger" / "audit.jsonl"
        return [row for row in map(json.loads, path.read_text().splitlines()) if row["id"] in {1016, 1017}]

    def trained(self, clinic: str, run: str) -> Counter[int]:
        """How often a clinic has trained each round of a run, by its identity."""
        rows = [row for row in self.audit(clinic) if row["id"] == 1005 and row["kind"] == "train"]
        return Counter(row["round"] for row in rows if row["run"] == run)

    def has_received(self, clinic: str, run: str, number: int) -> bool:
        """Whether the last message that a clinic has received whole is to train this round of a run."""
        said = (self.folder / f"{clinic}.log").read_text().rpartition("[RUN ")[2]
        head = f"{self.state(run)['flower_run']}, ROUND {number}]"
        return said.startswith(head) and "train message" in said and "Received successfully" in said

    def await_training(self, run: str, number: int) -> None:
        """Wait until the victim trains in this round."""
        until(f"{VICTIM} trains", lambda: self.has_received(VICTIM, run, number), every=0.02)

    def processes_of(self, clinic: str) -> dict[str, tuple[int, int]]:
        """A clinic's processes and how often each was restarted."""
        rows = self.clinic_status(clinic)["daemon"]["children"]
        return {row["name"]: (row["pid"], row["restarts"]) for row in rows}


def model_of(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    return safetensors.numpy.load_file(run / "model.safetensors")


def assert_same_tensors(found: dict[str, np.ndarray[Any, Any]], expected: dict[str, np.ndarray[Any, Any]]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(tensor, found[name]), name


def wait_out(begun: float, seconds: float) -> None:
    """Let an outage that began at `begun` (`time.monotonic`) take its time."""
    until("the outage has lasted", lambda: time.monotonic() - begun >= seconds, seconds + 5, every=0.5)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cut]:
    federation = Cut(tmp_path_factory.mktemp("network"))
    try:
        federation.begin()
        yield federation
    finally:
        federation.close()


@pytest.fixture(autouse=True)
def _mended(federation: Cut) -> Iterator[None]:
    """What fails in one test is not cut off in the next."""
    yield
    for gate in federation.gates.values():
        gate.restore()


def test_minutes_without_network_in_a_round_one_run_goes_on_at_quorum_and_another_waits(federation: Cut) -> None:
    """Lost: nothing. The clinic was asked for no round twice and trained none twice, and came back on its own."""
    before = {clinic: federation.processes_of(clinic) for clinic in CLINICS}
    quiet = {clinic: len(federation.line(clinic)) for clinic in CLINICS}
    goes_on = federation.submit("goes-on", "goes-on")
    until("a first round", lambda: federation.rounds("goes-on"))
    waits = federation.submit("waits", "waits")
    federation.await_training("waits", 2)
    federation.gates[VICTIM].freeze()
    cut = time.monotonic()
    until("the update is ready", lambda: federation.trained(VICTIM, waits)[2])
    expected = federation.expected()
    wait_out(cut, OUTAGE / 2)
    federation.gates[VICTIM].refuse()
    for run in (waits, goes_on):
        assert federation.told(2009, run=run, clinic=VICTIM, reason="offline")
    until("a round without it", lambda: federation.rounds("goes-on")[-1]["failed"] == {VICTIM: "offline"}, OUTAGE + 60)
    wait_out(cut, OUTAGE)
    assert set(federation.rounds("goes-on")[-1]["answered"]) == set(OTHERS)
    assert len(federation.rounds("waits")) == 1
    assert federation.online() == set(OTHERS)
    federation.gates[VICTIM].restore()

    until("it takes part", lambda: VICTIM in federation.rounds("goes-on")[-1]["answered"], BACK_SECONDS)
    federation.run(SERVER, "stop", "goes-on")
    federation.await_status("waits", "completed")
    federation.await_status("goes-on", "stopped")
    for run in (waits, goes_on):
        assert len(federation.told(2010, run=run, clinic=VICTIM)) == len(federation.told(2009, run=run, clinic=VICTIM))
        assert not [row for clinic in OTHERS for row in federation.told(2009, run=run, clinic=clinic)]
    assert all(row["failed"] == {} for row in federation.rounds("waits"))
    assert_same_tensors(model_of(federation.server / "runs" / "waits"), expected)
    assert federation.trained(VICTIM, waits) == {1: 1, 2: 1, 3: 1}
    assert set(federation.trained(VICTIM, goes_on).values()) == {1}
    lost, connected = federation.line(VICTIM)[quiet[VICTIM] :]
    assert (lost["id"], connected["id"]) == (1016, 1017)
    assert connected["seconds"] > OUTAGE - 60
    for clinic in CLINICS:
        assert federation.processes_of(clinic) == before[clinic]
        if clinic != VICTIM:
            assert len(federation.line(clinic)) == quiet[clinic]


def test_all_clinics_cut_off_for_a_minute_in_a_private_round(federation: Cut) -> None:
    """Lost: nothing. The round ends with everybody's update, and each round is charged once to each ledger."""
    run = federation.submit("private", "private")
    federation.await_training("private", 2)
    for gate in federation.gates.values():
        gate.freeze()
    cut = time.monotonic()
    wait_out(cut, CUT_OFF_SECONDS)
    assert federation.online() == set()
    assert federation.state("private")["status"] == "running"
    for gate in federation.gates.values():
        gate.restore()

    federation.await_status("private", "completed")
    assert [row["answered"] for row in federation.rounds("private")] == [sorted(CLINICS)] * 3
    for clinic in CLINICS:
        federation.clinic(clinic, "ledger", "verify")
        charges = map(json.loads, federation.clinic(clinic, "ledger", "export").splitlines())
        paid = Counter((row["purpose"], row["round"]) for row in charges if row["run"] == run)
        assert set(paid.values()) == {1}
        assert {number for purpose, number in paid if purpose == "training"} == {1, 2, 3}
        assert federation.trained(clinic, run) == {1: 1, 2: 1, 3: 1}


def test_a_coordinator_that_answers_502_while_its_superlink_starts_anew(federation: Cut) -> None:
    """Lost: nothing. The clinics keep asking, their processes stay, and the model is the same."""
    expected = federation.expected()
    before = {clinic: federation.processes_of(clinic) for clinic in CLINICS}
    told = {clinic: len(federation.line(clinic)) for clinic in CLINICS}
    run = federation.submit("waits", "again")
    federation.await_training("again", 2)
    federation.kill("-m melfed.server.cli.main superlink ", str(federation.server))

    def back(clinic: str) -> bool:
        return [row["id"] for row in federation.line(clinic)[told[clinic] :]] == [1016, 1017]

    until("all back", lambda: all(map(back, CLINICS)))
    federation.await_status("again", "completed")
    assert_same_tensors(model_of(federation.server / "runs" / "again"), expected)
    for clinic in CLINICS:
        assert "502" in federation.line(clinic)[told[clinic]]["reason"]
        assert federation.processes_of(clinic) == before[clinic]
        assert federation.trained(clinic, run) == {1: 1, 2: 1, 3: 1}
