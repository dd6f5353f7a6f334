"""Deaths at a clinic while it trains, and a budget that runs out: what was lost is nothing, and what was not asked is
not charged.

One stack of three clinics does it all. The clinic with most images is the one that things happen to: it trains for
seconds, the others are done before.
"""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import safetensors.numpy
import torch

import melfed.simulations.run
from melfed.client.privacy.accounting import Mechanism, epsilon
from melfed.common.study.file import read_study
from melfed.simulations.partition.virtual_clinics import divide
from tests import in_process
from tests.e2e.federation import Federation, needs_nginx, processes, until
from tests.e2e.place import SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(600)]

VICTIM, *OTHERS = CLINICS = ("phantom_north", "phantom_south", "phantom_east")
ROUNDS = 7
DELTA = 1e-5
LIMIT = 20.0
PATIENCE = 500
LEFT_BEHIND_SECONDS = 5.0
BACK_SECONDS = 250.0
"""Longest that a round may take in which something was killed, on a busy machine. Where a request is lost for good, it
takes longer: an online clinic is reminded after a third of the deadline."""

STUDY = f"""\
name: deaths
data: {{image_size: 48}}
partition: {{by: source, minimum_images: 4}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{learning_rate: 1.0e-3, warmup_steps: 0, augment: false, batch_size: 16, local_epochs: 80}}
federation: {{rounds: {ROUNDS}, deadline_seconds: 900}}
privacy: null
"""
PRIVATE = """\
name: {name}
data: {{image_size: 48}}
partition: {{by: source}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.1, warmup_steps: 0, augment: false}}
federation: {{rounds: 3, quorum: {quorum}, deadline_seconds: 900}}
privacy: {{unit: patient, epsilon: 8, delta: 1.0e-5, recipe: manual, sampling_rate: 0.5, steps: 40}}
"""


def written(federation: Federation, text: str, name: str) -> Path:
    path = federation.folder / f"{name}.yaml"
    path.write_text(text)
    return path


def rounds_done(federation: Federation, run: str) -> list[dict[str, Any]]:
    return [event for event in federation.events(run) if event["event"] == "round"]


def stat_of(pid: int) -> list[str]:
    """A process's line of the kernel's table, from its state on; the parent is the second, its CPU time 11 and 12."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_of(federation: Federation, role: str) -> int:
    """The victim's process of this role; of the messengers the one that the others were forked from."""
    return min(messengers(federation)) if role == "messenger" else found(federation, role)[0]


def found(federation: Federation, role: str) -> list[int]:
    markers = (f"-m melfed.client.cli.main {role} ", str(federation.kit(VICTIM)))
    return [pid for pid, command in processes() if all(marker in command for marker in markers)]


def messengers(federation: Federation) -> dict[int, list[int]]:
    """The victim's messenger, and the processes that it has forked for messages."""
    parents = {}
    for pid in found(federation, "messenger"):
        with contextlib.suppress(OSError):
            parents[pid] = int(stat_of(pid)[1])
    firsts = [pid for pid, parent in parents.items() if parent not in parents]
    return {first: [pid for pid, parent in parents.items() if parent == first] for first in firsts}


def clientapp(federation: Federation) -> int | None:
    """The process that carries the victim's message, if there is one."""
    return next((child for children in messengers(federation).values() for child in children), None)


def seconds_used(pid: int) -> float:
    return sum(map(int, stat_of(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def await_training(federation: Federation, run: str, number: int) -> None:
    """Wait until the victim trains in a round: its worker computes, and a ClientApp waits for it."""
    until(f"round {number - 1}", lambda: len(rounds_done(federation, run)) == number - 1, PATIENCE)
    worker = process_of(federation, "worker")
    idle = seconds_used(worker)
    until("a ClientApp", lambda: clientapp(federation), every=0.02)
    until("training", lambda: seconds_used(worker) > idle + 0.2, every=0.02)
    assert clientapp(federation), "the training was over before it could be disturbed"


def audited(federation: Federation, name: str, event: int, **fields: object) -> list[dict[str, Any]]:
    rows = [row for row in federation.audit(name) if row["id"] == event]
    return [row for row in rows if fields.items() <= row.items()]


def gone_after(federation: Federation) -> float:
    """Seconds until nothing of the victim's daemon is left."""
    started = time.monotonic()
    until("no process is left", lambda: not federation.descendants(VICTIM), LEFT_BEHIND_SECONDS, every=0.02)
    return time.monotonic() - started


def tensors_of(run: Path) -> dict[str, np.ndarray[Any, Any]]:
    return safetensors.numpy.load_file(run / "model.safetensors")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("deaths")
    federation = Federation(
        folder, folder / "lesions", CLINICS, {"studies": "any", "non_private": True, "epsilon": LIMIT}
    )
    try:
        federation.run(SIM, "phantom", federation.lesions, "--clinics", 3, "--images", 120, "--size", 48, "--seed", 5)
        federation.start_all()
        yield federation
    finally:
        federation.close()


@dataclass
class Disturbed:
    """What came of a run in which one thing after the other was ended."""

    folder: Path
    code: int
    simulated: Path
    rounds: dict[str, dict[str, Any]] = field(default_factory=dict)
    killed_gone: float = 0.0
    told_gone: float = 0.0
    told_code: int = -1


@pytest.fixture(scope="module")
def disturbed(federation: Federation) -> Disturbed:
    """A run with a death a round, from the second on; then the same study in peace."""
    study = written(federation, STUDY, "deaths")
    federation.start("run", SERVER, "run", study, "--out", "deaths")
    result = Disturbed(federation.server / "runs" / "deaths", -1, federation.folder / "simulated")

    def kill(role: str) -> None:
        os.kill(process_of(federation, role), signal.SIGKILL)

    def kill_clientapp() -> None:
        os.kill(clientapp(federation) or 0, signal.SIGKILL)

    def kill_daemon() -> None:
        assert len(federation.descendants(VICTIM)) >= 5, "daemon, keeper, worker, SuperNode, messenger"
        federation.stop(VICTIM, signal.SIGKILL)
        result.killed_gone = gone_after(federation)
        federation.start_clinic(VICTIM)

    def end_daemon() -> None:
        started = time.monotonic()
        result.told_code = federation.stop(VICTIM)
        result.told_gone = time.monotonic() - started + gone_after(federation)
        federation.start_clinic(VICTIM)

    deaths: dict[str, Callable[[], None]] = {
        "worker": lambda: kill("worker"),
        "ClientApp": kill_clientapp,
        "SuperNode": lambda: kill("supernode"),
        "messenger": lambda: kill("messenger"),
        "daemon": kill_daemon,
        "daemon, by SIGTERM": end_daemon,
    }
    for number, (name, death) in enumerate(deaths.items(), 2):
        await_training(federation, "deaths", number)
        death()
        until(
            f"the round of the {name}'s death", lambda n=number: len(rounds_done(federation, "deaths")) == n, PATIENCE
        )
        result.rounds[name] = rounds_done(federation, "deaths")[-1]
    result.code = federation.daemons.pop("run").wait(timeout=PATIENCE)
    undisturbed(federation, result.simulated)
    return result


def undisturbed(federation: Federation, out: Path) -> None:
    """Simulate the same study on the same lesions, in this process, with one thread as the clinics' workers have."""
    study = read_study(federation.folder / "deaths.yaml")
    virtual = divide(study, federation.lesions, federation.folder / "cache")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.object(melfed.simulations.run, "federate", in_process.federate):
            melfed.simulations.run.simulate(study, virtual, out, in_process.SilentObserver())
    finally:
        torch.set_num_threads(threads)


def test_deaths_at_a_clinic_lose_no_round_no_reply_and_no_tensor(disturbed: Disturbed, federation: Federation) -> None:
    assert disturbed.code == 0
    state = federation.state("deaths")
    assert (state["status"], state["round"]) == ("completed", ROUNDS)
    events = federation.events("deaths")
    done = [event for event in events if event["event"] == "round"]
    assert [event["round"] for event in done] == list(range(1, ROUNDS + 1))
    assert [event["round"] for event in events if event["event"] == "validation"] == list(range(1, ROUNDS + 1))
    for event in done:
        assert event["answered"] == sorted(CLINICS)
        assert (event["failed"], event["declined"]) == ({}, {})
    ours, theirs = tensors_of(disturbed.folder), tensors_of(disturbed.simulated)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, theirs[name], err_msg=name)


def test_a_clinic_is_back_soon_and_without_a_hand(disturbed: Disturbed) -> None:
    seconds = {name: event["seconds"] for name, event in disturbed.rounds.items()}
    assert max(seconds.values()) < BACK_SECONDS, seconds


def test_every_death_is_in_the_clinics_audit_log(disturbed: Disturbed, federation: Federation) -> None:
    ended = Counter(row["child"] for row in audited(federation, VICTIM, 1013))
    assert ended == {"worker": 1, "supernode": 1, "messenger": 1}
    # What was killed did not say goodbye; what was told to leave did.
    assert len(audited(federation, VICTIM, 1001)) == 4
    assert len(audited(federation, VICTIM, 1002)) == 1
    federation.clinic(VICTIM, "log", "verify")


def test_a_killed_daemon_takes_its_children_along(disturbed: Disturbed) -> None:
    assert disturbed.killed_gone < LEFT_BEHIND_SECONDS


def test_a_daemon_that_is_told_to_leave_in_training_does_so_within_seconds(disturbed: Disturbed) -> None:
    assert disturbed.told_code == 0
    assert disturbed.told_gone < 10


# Private runs.


def ledger_rows(federation: Federation, clinic: str) -> list[dict[str, Any]]:
    """The whole rows of a clinic's ledger; the last may be on its way to the disk."""
    path = federation.kit(clinic) / "state/worker/ledger.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def charges_of(federation: Federation, clinic: str, run: str) -> list[dict[str, Any]]:
    """The charges of a run, from a ledger that verifies."""
    federation.clinic(clinic, "ledger", "verify")
    identity = (federation.server / "runs" / run / "run-id").read_text().strip()
    every = [json.loads(line) for line in federation.clinic(clinic, "ledger", "export").splitlines()]
    return [charge for charge in every if charge["run"] == identity]


def charged(charges: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(charge["purpose"], charge["round"]) for charge in charges]


WHOLE = [("counts", 0), *((purpose, number) for number in (1, 2, 3) for purpose in ("training", "evaluation"))]
"""What three rounds are charged: the counts once, before them; each round's model is validated with the next round's
request, the last in the end."""


@pytest.fixture(scope="module")
def private(federation: Federation) -> str:
    """A private run: the worker is killed in training, and the SuperNode while it has a reply to carry."""
    study = written(federation, PRIVATE.format(name="private", quorum=1.0), "private")
    federation.start("run", SERVER, "run", study, "--out", "private")
    identity = until("the run", lambda: federation.state("private")) and (
        (federation.server / "runs" / "private" / "run-id").read_text().strip()
    )

    def reserved(number: int) -> bool:
        rows = [row for row in ledger_rows(federation, VICTIM) if row["run"] == identity and row["round"] == number]
        return [row["status"] for row in rows if row["purpose"] == "training"] == ["reserved"]

    until("training of round 2", lambda: reserved(2), PATIENCE, every=0.01)
    os.kill(process_of(federation, "worker"), signal.SIGKILL)
    assert reserved(2), "the training was over before the worker was killed"
    until("training of round 3", lambda: reserved(3), PATIENCE, every=0.01)
    supernode = process_of(federation, "supernode")
    os.kill(supernode, signal.SIGSTOP)
    answered = {"kind": "train", "run": identity, "round": 3}
    until("the answer of round 3", lambda: audited(federation, VICTIM, 1005, **answered), PATIENCE, every=0.01)
    os.kill(supernode, signal.SIGKILL)
    assert federation.daemons.pop("run").wait(timeout=PATIENCE) == 0
    return identity


def test_a_private_run_charges_each_request_once_whatever_was_killed(private: str, federation: Federation) -> None:
    done = rounds_done(federation, "private")
    assert [(event["round"], event["answered"]) for event in done] == [(n, sorted(CLINICS)) for n in (1, 2, 3)]
    for clinic in CLINICS:
        charges = charges_of(federation, clinic, "private")
        assert charged(charges) == WHOLE
        assert {charge["status"] for charge in charges} == {"released"}
        assert 0.95 * 8 < charges[-1]["epsilon"] <= 8
    summary = json.loads((federation.server / "runs/private/summary.json").read_text())
    heads = {clinic["name"]: clinic["ledger_head"] for clinic in summary["privacy"]["clinics"]}
    assert heads == {clinic: ledger_rows(federation, clinic)[-1]["hash"] for clinic in CLINICS}


def test_a_reply_that_was_lost_on_its_way_is_sent_again_from_the_store(private: str, federation: Federation) -> None:
    repeated = audited(federation, VICTIM, 1008, run=private)
    assert [(row["kind"], row["round"]) for row in repeated] == [("train", 3)]
    answered = [(row["kind"], row["round"]) for row in audited(federation, VICTIM, 1005, run=private)]
    # Whoever comes back describes itself anew, which costs nothing.
    assert [row for row in answered if row[0] != "describe"] == [
        ("train", 1),
        ("train", 2),
        ("train", 3),
        ("evaluate", 3),
    ]
    for clinic in OTHERS:
        assert not audited(federation, clinic, 1008, run=private)


# A budget that does not last for the run.


def allow(federation: Federation, charges: list[dict[str, Any]]) -> None:
    """Have the victim's policy allow what its ledger says and these charges, and next to nothing more."""
    spent = [row for row in ledger_rows(federation, VICTIM) if row["status"] == "reserved"]
    history = [Mechanism(row["sampling_rate"], row["noise_multiplier"], row["steps"]) for row in [*spent, *charges]]
    limit = epsilon(history, DELTA) * 1.0001
    federation.configure(VICTIM, {"policy": {"epsilon": limit}})


def test_a_budget_that_does_not_last_declines_before_round_1_and_the_run_goes_on_at_quorum(
    private: str, federation: Federation
) -> None:
    # The same mechanisms as in the run before: enough for training, evaluation, training.
    allow(federation, charges_of(federation, VICTIM, "private")[:3])
    study = written(federation, PRIVATE.format(name="two-of-three", quorum=0.6), "two-of-three")
    federation.run(SERVER, "run", study, "--out", "two-of-three", seconds=PATIENCE)
    assert federation.state("two-of-three")["status"] == "completed"
    done = rounds_done(federation, "two-of-three")
    assert [event["round"] for event in done] == [1, 2, 3]
    assert [event["answered"] for event in done] == [sorted(OTHERS)] * 3
    assert [event["failed"] for event in done] == [{}] * 3
    told = "too little is left of these patients' ε for all that a run of this study still asks"
    assert [event["declined"] for event in done] == [{VICTIM: told}] * 3
    assert charged(charges_of(federation, VICTIM, "two-of-three")) == []
    for clinic in OTHERS:
        assert charged(charges_of(federation, clinic, "two-of-three")) == WHOLE
    identity = (federation.server / "runs/two-of-three/run-id").read_text().strip()
    declined = audited(federation, VICTIM, 1006, run=identity)
    assert {(row["kind"], row["round"]) for row in declined} == {("describe", 0)}
    assert f"{told}: of ε = " in declined[0]["reason"], "the clinic's own people see how much is left"
    assert {row["clinic"] for row in audited(federation, "server", 2008, run=identity)} == {VICTIM}


def test_a_budget_that_does_not_last_ends_a_run_that_needs_all_clinics_before_anybody_spends(
    private: str, federation: Federation
) -> None:
    allow(federation, charges_of(federation, VICTIM, "private")[:1])
    study = written(federation, PRIVATE.format(name="all-of-three", quorum=1.0), "all-of-three")
    said = federation.run(SERVER, "run", study, "--out", "all-of-three", code=7, seconds=PATIENCE)
    state = federation.state("all-of-three")
    assert (state["status"], state["round"], state["wanted"]) == ("failed", 0, False)
    assert state["reason"].startswith("quorum: 2 of 3 clinics answered, 3 are needed")
    assert f"{VICTIM} declined" in state["reason"]
    assert "2 of 3 clinics answered" in " ".join(said.split())
    for clinic in CLINICS:
        assert charged(charges_of(federation, clinic, "all-of-three")) == []
