"""Clinics that come, go, come back as another version, do not agree, are added, and are thrown out: it is said clearly,
and the others are unharmed.

One coordinator goes on through all of it without a restart, and two clinics take part in everything.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import melfed.client
import melfed.common
from melfed.client.rpc.api import melfed_version
from melfed.common.messages import MESSAGE_VERSION
from tests.e2e.federation import Federation, needs_nginx, until
from tests.e2e.place import SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(600)]

STEADY = ("phantom_north", "phantom_south")
GUEST, ADDED = "phantom_east", "phantom_west"
CLINICS = (*STEADY, GUEST)
CUT_OFF_SECONDS = 20.0
FIRST_WAIT = 90
OLD = "0.0.9"
STUDY = """\
name: {name}
data: {{image_size: 48}}
partition: {{by: source, minimum_images: 4}}
model: {{backbone: simple_cnn, pretrained: false}}
training: {{optimizer: sgd, learning_rate: 0.01, warmup_steps: 0, augment: false}}
federation: {{rounds: {rounds}, quorum: {quorum}, deadline_seconds: {deadline}{grace}, validate_every: 1000}}
privacy: null
"""


class Members(Federation):
    """A federation whose clinics come and go."""

    def sealed(
        self, name: str, rounds: int, quorum: float, clinics: tuple[str, ...] = CLINICS, deadline: int = 600
    ) -> Path:
        """Seal a study that these clinics have approved."""
        study, sealed = self.folder / f"{name}.yaml", self.folder / f"{name}-sealed.yaml"
        grace = ", grace_seconds: 4" if quorum < 1 else ""
        study.write_text(STUDY.format(name=name, rounds=rounds, quorum=quorum, deadline=deadline, grace=grace))
        self.run(SERVER, "study", study, "--out", sealed)
        for clinic in clinics:
            self.clinic(clinic, "approve", sealed)
        return sealed

    def follow(self, study: Path, run: str, *options: object) -> str:
        """Run a study by `melfed-server run`, whose words `said` returns; return the run's identity."""
        self.start(f"run {run}", SERVER, "run", study, "--out", run, *options)
        path = self.server / "runs" / run / "run-id"
        until("the run exists", path.exists)
        return path.read_text().strip()

    def said(self, run: str) -> str:
        """What whoever follows the run has been told."""
        return (self.folder / f"run {run}.log").read_text()

    def ended(self, run: str) -> int:
        """Wait for the end of a run, and return the exit code of the command that followed it."""
        return self.daemons.pop(f"run {run}").wait(timeout=120)

    def rounds(self, run: str) -> list[dict[str, Any]]:
        return [event for event in self.events(run) if event["event"] == "round"]

    def more_rounds(self, run: str, count: int = 2) -> list[dict[str, Any]]:
        """Wait until a run has got further by so many rounds, and return those."""
        number = len(self.rounds(run)) + 1  # the one that is under way may have begun under other conditions
        until(f"{count} more rounds", lambda: len(self.rounds(run)) >= number + count)
        return self.rounds(run)[number:]

    def told(self, event: int, **fields: object) -> list[dict[str, Any]]:
        """Rows of the server's audit log."""
        return [row for row in self.audit("server") if row["id"] == event and fields.items() <= row.items()]

    def asked(self, clinic: str, study: str) -> set[str]:
        """What a clinic was asked for in a study, by its own audit log."""
        return {row["kind"] for row in self.audit(clinic) if row.get("study") == study and "kind" in row}

    def line(self, clinic: str) -> list[dict[str, Any]]:
        """What a clinic's SuperNode has told of its connection: rows 1016 and 1017."""
        path = self.kit(clinic) / "state" / "messenger" / "audit.jsonl"
        return [row for row in map(json.loads, path.read_text().splitlines()) if row["id"] in {1016, 1017}]

    def unharmed(self, *clinics: str) -> dict[str, object]:
        """What may not change while something happens to another clinic: processes, and the connections' stories."""
        content: dict[str, object] = {
            clinic: (self.children(clinic), [row["id"] for row in self.line(clinic)]) for clinic in clinics
        }
        server = self.status()["children"]
        return content | {"server": {child["name"]: (child["pid"], child["restarts"]) for child in server}}

    def children(self, clinic: str) -> dict[str, tuple[int, int]]:
        rows = self.clinic_status(clinic)["daemon"]["children"]
        return {row["name"]: (row["pid"], row["restarts"]) for row in rows}


def another_version(folder: Path, protocol: int) -> Path:
    """Make a copy of what a clinic has installed, as another version: a folder for PYTHONPATH."""
    for package in (melfed.client, melfed.common):
        source = Path(str(package.__file__)).parent
        shutil.copytree(source, folder / "melfed" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "melfed" / "common" / "messages.py"
    words = module.read_text()
    line = f"\nMESSAGE_VERSION: Final = {MESSAGE_VERSION}\n"
    assert words.count(line) == 1
    module.write_text(words.replace(line, f"\nMESSAGE_VERSION: Final = {protocol}\n"))
    about = folder / f"melfed-{OLD}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: melfed\nVersion: {OLD}\n")
    return folder


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Members]:
    folder = tmp_path_factory.mktemp("members")
    federation = Members(folder, folder / "lesions", CLINICS, {"non_private": True})
    try:
        federation.run(SIM, "phantom", federation.lesions, "--clinics", 4, "--images", 120, "--size", 48, "--seed", 5)
        federation.start_server()
        for clinic in STEADY:
            federation.start_clinic(clinic)
        federation.wait_online(*STEADY)
        yield federation
    finally:
        federation.close()


def test_a_clinic_joins_late_leaves_and_comes_back_with_old_versions(
    federation: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost: nothing. Each change is told by the clinic's name; the others answer every round."""
    before = federation.unharmed(*STEADY)
    # A new run waits for everybody until the deadline; that costs no CPU.
    run = federation.follow(federation.sealed("open", 1000, 0.6, deadline=FIRST_WAIT), "open")
    until("two rounds", lambda: len(federation.rounds("open")) >= 2)
    assert all(row["answered"] == sorted(STEADY) for row in federation.rounds("open"))

    # It joins late, and its version is another, which speaks the same protocol.
    monkeypatch.setitem(federation.environment, "PYTHONPATH", str(another_version(tmp_path / "other", MESSAGE_VERSION)))
    federation.start_clinic(GUEST)
    until("it joins", lambda: federation.told(2018, run=run, clinic=GUEST))
    assert all(row["answered"] == sorted(CLINICS) for row in federation.more_rounds("open"))
    assert federation.told(2019, run=run, clinic=GUEST, version=OLD, expected=melfed_version())

    # It leaves.
    assert federation.stop(GUEST) == 0
    until("that is seen", lambda: federation.told(2009, run=run, clinic=GUEST, reason="offline"))
    for row in federation.more_rounds("open"):
        assert (row["answered"], row["failed"]) == (sorted(STEADY), {GUEST: "offline"})

    # It comes back with a version that speaks another protocol.
    monkeypatch.setitem(
        federation.environment, "PYTHONPATH", str(another_version(tmp_path / "old", MESSAGE_VERSION - 1))
    )
    federation.start_clinic(GUEST)
    until("it is turned away", lambda: federation.told(2007, run=run, clinic=GUEST))
    reason = f"the coordinator speaks protocol {MESSAGE_VERSION}, this clinic {MESSAGE_VERSION - 1}; update melfed"
    for row in federation.more_rounds("open"):
        assert (row["answered"], row["failed"]) == (sorted(STEADY), {GUEST: reason})
    assert len(federation.told(2019, run=run, clinic=GUEST, version=OLD)) == 1
    federation.stop(GUEST)

    # It is brought up to date.
    monkeypatch.undo()
    federation.start_clinic(GUEST)
    until("it takes part", lambda: GUEST in federation.rounds("open")[-1]["answered"])
    assert all(row["answered"] == sorted(CLINICS) for row in federation.more_rounds("open"))

    federation.run(SERVER, "stop", "open")
    federation.ended("open")
    said = federation.said("open")
    for words in (
        f"clinic {GUEST} joins",
        f"clinic {GUEST} is lost: offline",
        f"clinic {GUEST} is back",
        f"clinic {GUEST} runs melfed {OLD}, this server {melfed_version()}",
        f"clinic {GUEST}: its answer is not used: {reason}",
    ):
        assert words in said
    assert all(set(STEADY) <= set(row["answered"]) for row in federation.rounds("open"))
    assert federation.unharmed(*STEADY) == before


def test_a_clinic_that_has_not_approved_the_study_is_named_and_not_asked_to_train(federation: Members) -> None:
    """Lost: nothing."""
    federation.wait_online(*CLINICS)
    study = federation.sealed("disliked", 2, 0.6, STEADY)
    run = federation.follow(study, "disliked")
    assert federation.ended("disliked") == 0
    rows = federation.told(2008, run=run)
    assert {row["clinic"] for row in rows} == {GUEST}
    assert "approve" in rows[0]["reason"]
    assert f"clinic {GUEST} declines: {rows[0]['reason']}" in federation.said("disliked")
    assert [(row["answered"], row["declined"].keys()) for row in federation.rounds("disliked")] == [
        (sorted(STEADY), {GUEST})
    ] * 2
    assert federation.asked(GUEST, "disliked") == {"describe"}


def test_a_run_for_some_clinics_asks_no_other(federation: Members) -> None:
    """Lost: nothing."""
    federation.wait_online(*CLINICS)
    chosen = sorted((STEADY[0], GUEST))
    study = federation.sealed("some", 2, 1.0)
    federation.follow(study, "some", "--clinics", ",".join(chosen))
    assert federation.ended("some") == 0
    assert [(row["answered"], row["failed"], row["declined"]) for row in federation.rounds("some")] == [
        (chosen, {}, {})
    ] * 2
    assert federation.asked(STEADY[1], "some") == set()
    assert {"train", "evaluate"} <= federation.asked(GUEST, "some")


def test_a_clinic_is_added_revoked_in_mid_run_and_let_in_again(federation: Members) -> None:
    """Lost: nothing. Nobody else is started anew, or loses a connection."""
    federation.wait_online(*CLINICS)
    before = federation.unharmed(*CLINICS)
    everybody = (*CLINICS, ADDED)
    federation.run(SERVER, "provision", federation.consortium(everybody), "--out", federation.folder / "kits")
    federation.configure(ADDED, {"policy": {"studies": "any", "epsilon": 20, "non_private": True}})
    federation.start_clinic(ADDED)
    federation.wait_online(ADDED)
    assert federation.told(2003, clinic=ADDED)
    run = federation.follow(federation.sealed("four", 1000, 0.5), "four")
    # A round goes on at quorum: on a busy machine one of four may come too late for it.
    until("a round of four", lambda: any(row["answered"] == sorted(everybody) for row in federation.rounds("four")))

    federation.run(SERVER, "revoke", ADDED)
    until("it is lost", lambda: federation.told(2009, run=run, clinic=ADDED), CUT_OFF_SECONDS)
    assert federation.told(2004, clinic=ADDED)
    until("it is refused", lambda: federation.line(ADDED)[-1]["id"] == 1016, CUT_OFF_SECONDS)
    # SuperLink turns the key away at once (401), the edge as soon as it has its new list (403).
    assert any(code in federation.line(ADDED)[-1]["reason"] for code in ("401", "403"))
    assert federation.stop(ADDED) == 0
    refusals = len(federation.line(ADDED))
    federation.start_clinic(ADDED)
    until("it is refused again", lambda: len(federation.line(ADDED)) > refusals)
    assert [row["id"] for row in federation.line(ADDED)[refusals:]] == [1016]
    for row in federation.more_rounds("four"):
        assert (row["answered"], row["failed"].keys()) == (sorted(CLINICS), {ADDED})
    assert ADDED not in federation.online()

    federation.run(SERVER, "approve", federation.server / "clinics" / f"{ADDED}.json")
    until("it takes part", lambda: ADDED in federation.rounds("four")[-1]["answered"])
    federation.run(SERVER, "stop", "four")
    federation.ended("four")
    assert all(set(CLINICS) <= set(row["answered"]) for row in federation.rounds("four"))
    assert federation.unharmed(*CLINICS) == before
