"""What trackers are told of a run: pooled numbers, each once, and nothing of a clinic or a patient."""

import json
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.server.federation.observer import Silent
from melfed.server.runs.folder import RunFolder
from melfed.server.trackers.tracking import NAME, Tracking
from tests.server.trackers.told import Listener, add_round, add_validation, folder_of_a_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return folder_of_a_run(tmp_path / "run")


def two_rounds(folder: RunFolder, *trackers: Listener) -> None:
    with Tracking(Silent(), trackers) as observer:
        observer.follow(folder)
        observer.started({}, 1, 4)
        add_round(folder, 1)
        observer.round_finished(1, 0.5, 2.0)
        add_validation(folder, 1)
        add_round(folder, 2, None)
        observer.round_finished(2, None, 2.0)


def test_each_rounds_numbers_come_once(folder: RunFolder) -> None:
    listener = Listener()
    two_rounds(folder, listener)
    assert [(kind, number) for kind, number, _ in listener.calls] == [("record", 1), ("record", 1), ("record", 2)]
    first, validation, second = (numbers for _, _, numbers in listener.calls)
    assert first == {"train_loss": 0.5, "seconds": 2.0, "bytes_up": 10.0, "bytes_down": 20.0, "clinics": 1.0}
    assert validation["validation/auroc"] == 1.0
    assert "train_loss" not in second
    assert listener.closed == 1
    assert [run.first_round for run in listener.runs] == [1]


def test_nothing_of_a_clinic_or_of_a_machine_is_told(folder: RunFolder) -> None:
    listener = Listener()
    two_rounds(folder, listener)
    said = repr(listener.calls) + repr([run.keys for run in listener.runs])
    for word in ("Anna", "clinic B", "broken", "/a/patient"):
        assert word not in said
    assert listener.runs[0].keys["federation.rounds"] == "5"
    assert "model.weights" not in listener.runs[0].keys


def test_a_resumed_run_goes_on_with_what_was_not_told(folder: RunFolder) -> None:
    two_rounds(folder, Listener())
    # Killed after round 3 was written down, and before anybody was told.
    add_round(folder, 3)
    again = Listener()
    with Tracking(Silent(), [again]) as observer:
        observer.follow(folder)
        observer.started({}, 4, 4)
        add_round(folder, 4)
        observer.round_finished(4, 0.5, 2.0)
    assert [number for _, number, _ in again.calls] == [3, 4]
    assert again.runs[0].first_round == 3
    assert again.runs[0].identity == folder.identity


def test_what_is_trained_again_is_told_again(folder: RunFolder) -> None:
    two_rounds(folder, Listener())
    again = Listener()
    with Tracking(Silent(), [again]) as observer:
        observer.follow(folder)
        folder.forget_after(1)
        observer.started({}, 2, 4)
        assert again.calls == []
        add_round(folder, 2)
        observer.round_finished(2, 0.5, 2.0)
    assert [number for _, number, _ in again.calls] == [2]


def test_a_tracker_that_fails_hears_no_more_and_the_others_do(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    class Other(Listener):
        pass

    failing, other = Listener(fails_at=1), Other()
    two_rounds(folder, failing, other)
    assert failing.calls == []
    assert failing.closed == 0
    assert len(other.calls) == 3
    assert [record.message for record in caplog.records] == [
        "tracker listener: no room; it is told no more, and the run goes on"
    ]


def test_everything_else_is_the_other_observers(folder: RunFolder) -> None:
    heard: list[object] = []

    class Ear(Silent):
        def round_finished(self, round_number: int, loss: float | None, seconds: float) -> None:
            heard.append((round_number, loss, seconds))

        def replied(self, clinic: str, error: str | None, declined: bool = False) -> None:
            heard.append((clinic, error, declined))

    with Tracking(Ear(), []) as observer:
        observer.follow(folder)
        observer.replied("north", None)
        observer.round_finished(1, 0.5, 1.0)
    assert heard == [("north", None, False), (1, 0.5, 1.0)]
    assert not (folder.path / NAME).exists()


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"Listener": {"round": "x"}})])
def test_a_damaged_note_is_told(content: str, folder: RunFolder) -> None:
    (folder.path / NAME).write_text(content)
    with (
        pytest.raises(ServiceError, match=rf"{NAME}: damaged; delete it"),
        Tracking(Silent(), [Listener()]) as observer,
    ):
        observer.follow(folder)
