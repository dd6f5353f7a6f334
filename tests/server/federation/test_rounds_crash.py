"""A ServerApp that is killed at any write, or finds the disk full there, goes on as if nothing had happened."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from melfed.common import messages
from melfed.common.errors import QuorumError, RunError, StorageError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import load_tensors
from melfed.server.federation.context import completed
from melfed.server.runs.checkpoints import last_checkpoint
from melfed.server.runs.state import change_state, read_state
from tests.server.fakes import (
    INITIAL,
    Run,
    arrays,
    assert_equal,
    changed,
    clinics_of,
    counted_rounds,
    grid_of,
    study_of,
)
from tests.server.lossy import LossyGrid, deployed, quickly

NAMES = frozenset("abc")


class KilledError(BaseException):
    """Nothing in the program may catch it."""


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def study() -> StudyProtocol:
    return study_of(rounds=2, algorithm="fedyogi", tail_average=0.9, cohort=0.7, privacy={"evaluation": "noised"})


def run_at(path: Path, first_node: int = 100, **options) -> Run:
    grid = LossyGrid(
        dict(enumerate(clinics_of(study()), start=first_node)), names=dict(enumerate("abc", start=first_node))
    )
    return deployed(path, study(), grid, expected=NAMES, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict], dict[str, list]]:
    """Model, events and test histograms of a run that nothing has happened to."""
    run = Run(tmp_path_factory.mktemp("whole") / "run", study(), grid_of(clinics_of(study())))
    outcome = run.conduct()
    return outcome.models[""], run.timeless(), {name: h.to_lists() for name, h in outcome.test.items()}


def interrupt(patch: pytest.MonkeyPatch, number: int, interruption: Callable[[], None]) -> None:
    """Interrupt at the n-th write: before it is on disk, or just after the file has its name."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            interruption()

    replace = Path.replace

    def fsync(_descriptor: int) -> None:
        step()

    def named(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        step()
        return moved

    patch.setattr(os, "fsync", fsync)
    patch.setattr(Path, "replace", named)


def killed() -> None:
    raise KilledError


def test_killed_at_any_write_it_ends_with_the_same_model(
    tmp_path: Path, whole: tuple[dict, list[dict], dict[str, list]]
) -> None:
    points = 0
    for number in range(1, 1000):
        run = run_at(tmp_path / str(number))
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, number, killed)
            try:
                run.conduct()
            except KilledError:
                points += 1
            else:
                break
        state = read_state(run.folder.path)
        assert state is None or (state.wanted and state.status in {"running", "queued"})
        found = last_checkpoint(run.folder.checkpoints, study().digest)
        reached = 0 if found is None else found.round
        kept = kept_for(run, reached + 1)
        again = run_at(run.folder.path, first_node=7)
        outcome = again.conduct()
        model, events, test = whole
        assert_equal(outcome.models[""], model)
        assert again.timeless() == events
        assert {name: h.to_lists() for name, h in outcome.test.items()} == test
        asked = {n: {c.name for c in again.grid.clinics.values() if (messages.TRAIN, n) in c.asked} for n in (1, 2)}
        assert all(not asked[n] for n in range(1, reached + 1)), "what is checkpointed is not trained again"
        if reached < 2:
            assert not asked[reached + 1] & kept, "who has answered is not asked again"
            assert asked[reached + 1] | kept == set(events[2 * reached]["answered"])
        assert list(again.folder.pending.iterdir()) == []
    assert points > 40, "there are that many writes, and more"


def kept_for(run: Run, number: int) -> set[str]:
    """Whose answers to a round are on disk."""
    names = set()
    for path in run.folder.pending.glob("*.safetensors") if run.folder.pending.is_dir() else ():
        header = json.loads(str(load_tensors(path)[1]["header"]))
        if header["round"] == number:
            names.add(header["clinic"])
    return names


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_it_fails_and_goes_on_when_there_is_space(
    tmp_path: Path, whole: tuple[dict, list[dict], dict[str, list]]
) -> None:
    failed = 0
    for number in range(1, 60, 3):
        run = run_at(tmp_path / str(number))
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, number, full)
            try:
                run.conduct()
            except StorageError:
                failed += 1
        state = read_state(run.folder.path)
        assert state is None or state.wanted
        if state is not None and state.status == "failed":
            assert "free space" in state.reason
        outcome = run_at(run.folder.path).conduct()
        assert_equal(outcome.models[""], whole[0])
    assert failed > 10


def test_nobody_who_has_answered_is_asked_again(tmp_path: Path) -> None:
    """Whoever has trained has paid for it."""
    run = run_at(tmp_path / "run")
    take = run.grid._answer

    def answer(identifier, message) -> None:
        if message.metadata.message_type == messages.TRAIN and message.metadata.dst_node_id == 102:
            raise KilledError
        take(identifier, message)

    run.grid._answer = answer
    run.grid.troubles = {102: run.grid.trouble(102).__class__(slow=4)}
    plain = study().with_changes("federation", cohort=1.0)
    for clinic in run.grid.clinics.values():
        clinic.study = plain
    run = deployed(tmp_path / "two", plain, run.grid, expected=NAMES)
    with pytest.raises(KilledError):
        run.conduct()
    assert sorted(path.name for path in run.folder.pending.iterdir()) == ["a.safetensors", "b.safetensors"]
    assert {path.stat().st_mode & 0o777 for path in run.folder.pending.iterdir()} == {0o600}
    clinics = clinics_of(plain)
    again = deployed(run.folder.path, plain, LossyGrid(dict(enumerate(clinics, start=5))), expected=NAMES)
    again.conduct()
    assert {clinic.name: counted_rounds(clinic) for clinic in clinics} == {"a": [2], "b": [2], "c": [1, 2]}
    assert [event["answered"] for event in again.events("round")] == [["a", "b", "c"]] * 2


def test_a_run_whose_model_overflowed_asks_anew_when_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that were kept, by whatever version of melfed believed them, do not fail every run that goes on."""
    plain = study_of(rounds=1, algorithm="fedadam", quorum=0.6, grace_seconds=0.0)
    clinics = clinics_of(plain)
    huge = {name: np.full_like(tensor, 1e20) for name, tensor in INITIAL.items()}
    clinics[2].tamper = {messages.TRAIN: changed(tensors=lambda _content: arrays(huge))}
    run = deployed(tmp_path / "run", plain, LossyGrid(dict(enumerate(clinics, start=100))), expected=NAMES)
    with monkeypatch.context() as patch:
        patch.setattr("melfed.server.federation.reply_checks.MAX_NORM", np.inf)
        patch.setattr("melfed.common.aggregation.fixed_point.HEADROOM", 2.0**70)
        with pytest.raises(RunError, match="is not finite"):
            run.conduct()
    assert list(run.folder.pending.iterdir()) == []
    change_state(run.folder.path, wanted=True, status="queued")
    again = deployed(run.folder.path, plain, LossyGrid(dict(enumerate(clinics, start=9))), expected=NAMES)
    again.conduct()
    (event,) = again.events("round")
    assert event["answered"] == ["a", "b"]
    assert "norm" in event["failed"]["c"]


def test_a_run_that_failed_for_want_of_a_quorum_keeps_the_answers_that_it_has(tmp_path: Path) -> None:
    plain = study_of(rounds=1)
    clinics = clinics_of(plain)
    from tests.server.federation.test_rounds_declined import declines

    clinics[1].tamper = {messages.TRAIN: declines("the budget is spent")}
    grid = LossyGrid(dict(enumerate(clinics, start=100)))
    run = deployed(tmp_path / "run", plain, grid, expected=NAMES)
    with pytest.raises(QuorumError):
        run.conduct()
    state = read_state(run.folder.path)
    assert (state.status, state.wanted) == ("failed", False)
    assert state.reason.startswith("quorum: 2 of 3 clinics answered, 3 are needed: b declined: the budget is spent")
    clinics[1].tamper = {}
    change_state(run.folder.path, wanted=True, status="queued")
    again = deployed(run.folder.path, plain, LossyGrid(dict(enumerate(clinics, start=9))), expected=NAMES)
    outcome = again.conduct()
    assert {clinic.name: counted_rounds(clinic) for clinic in clinics} == {"a": [1], "b": [1, 1], "c": [1]}
    assert_equal(outcome.models[""], Run(tmp_path / "whole", plain, grid_of(clinics_of(plain))).conduct().models[""])
    assert read_state(run.folder.path).status == "running", "model and report are still to be written"
    completed(again.folder, again.terms)
    state = read_state(run.folder.path)
    assert (state.status, state.wanted, state.reason, state.round) == ("completed", False, "", 1)
    assert again.terms.audit.of(2011)[0]["rounds"] == 1
    # Whoever goes on says so, also where the first round was not over; whoever begins does not.
    assert run.terms.audit.of(2020) == []
    assert [row["round"] for row in again.terms.audit.of(2020)] == [0]
