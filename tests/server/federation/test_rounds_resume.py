"""The round loop, interrupted: a run that goes on from its checkpoint ends as one that was never stopped."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

import melfed.server.federation.rounds
from melfed.common import messages
from melfed.common.errors import RunError, StorageError
from melfed.server.runs.checkpoints import last_checkpoint
from tests.server.fakes import FakeGrid, Run, assert_equal, clinics_of, grid_of, held, study_of

# Going on from a checkpoint.


class PowerCutError(Exception):
    """Ends a run at some point of it, without a chance to tidy up."""


def cut_at(kind: str, number: int) -> Callable[[Message], None]:
    def check(message: Message) -> None:
        metadata = message.metadata
        if (metadata.message_type, metadata.group_id) == (kind, str(number)):
            raise PowerCutError

    return check


class FailingGrid(FakeGrid):
    """A grid that a message can bring down."""

    check: Callable[[Message], None] = staticmethod(lambda _message: None)

    def push_messages(self, messages):
        messages = list(messages)
        for message in messages:
            self.check(message)
        return super().push_messages(messages)


@pytest.mark.parametrize("algorithm", ["fedavg", "fedavgm", "fedyogi"])
@pytest.mark.parametrize("where", ["round 1", "round 3", "round 4", "checkpoint 3", "evaluation"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, where: str
) -> None:
    # The average is over rounds 2 to 4: some stops are before its first model, some between two of them.
    study = study_of(rounds=4, algorithm=algorithm, cohort=0.7, server_learning_rate=0.5, tail_average=0.7)
    whole = Run(tmp_path / "whole", study, grid_of(clinics_of(study)))
    expected = whole.conduct()

    grid = FailingGrid(dict(enumerate(clinics_of(study), start=100)))
    run = Run(tmp_path / "run", study, grid)
    what, _, number = where.partition(" ")
    with monkeypatch.context() as patch:
        if what == "checkpoint":

            def save(folder, checkpoint):
                if checkpoint.round == int(number):
                    raise PowerCutError
                original(folder, checkpoint)

            original = melfed.server.federation.rounds.save_checkpoint
            patch.setattr(melfed.server.federation.rounds, "save_checkpoint", save)
        else:
            grid.check = cut_at(*((messages.TRAIN, int(number)) if what == "round" else (messages.EVALUATE, 4)))
        with pytest.raises(PowerCutError):
            run.conduct()
    grid.check = cut_at("nothing", 0)
    # A power cut may also leave half a line behind.
    with (run.folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "rou')
    again = Run(run.folder.path, study, FakeGrid(dict(enumerate(clinics_of(study), start=7))))
    outcome = again.conduct()
    first = {"round 1": 1, "round 3": 3, "round 4": 4, "checkpoint 3": 3, "evaluation": 5}[where]
    assert again.observer.of("started") == [("started", ["a", "b", "c"], first, 4)]
    assert [call[1] for call in again.observer.of("round_started")] == list(range(first, 5))
    assert_equal(outcome.models[""], expected.models[""])
    assert again.timeless() == whole.timeless()
    assert [h.to_lists() for h in outcome.test.values()] == [h.to_lists() for h in expected.test.values()]


def test_a_disk_that_fills_up_loses_one_round_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(rounds=3)
    run = Run(tmp_path / "run", study, grid_of(clinics_of(study)))
    original = melfed.server.federation.rounds.save_checkpoint

    def save(folder, checkpoint):
        if checkpoint.round == 2:
            raise StorageError("disk full")
        original(folder, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(melfed.server.federation.rounds, "save_checkpoint", save)
        with pytest.raises(StorageError):
            run.conduct()
    assert last_checkpoint(run.folder.checkpoints, study.digest).round == 1
    whole = Run(tmp_path / "whole", study, grid_of(clinics_of(study)))
    assert_equal(run.conduct().models[""], whole.conduct().models[""])
    assert run.timeless() == whole.timeless()


def test_checkpoints_of_another_study_are_refused(tmp_path: Path) -> None:
    first = study_of(rounds=1)
    Run(tmp_path / "run", first, grid_of(clinics_of(first))).conduct()
    second = study_of(rounds=2)
    with pytest.raises(RunError, match="of study"):
        Run(tmp_path / "run", second, grid_of(clinics_of(second))).conduct()


@pytest.mark.parametrize(("share", "averaged"), [(0.0, [4]), (0.25, [4]), (0.5, [3, 4]), (0.99, [1, 2, 3, 4])])
def test_what_is_evaluated_and_kept_is_the_mean_of_the_last_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, averaged: list[int]
) -> None:
    study = study_of(rounds=4, tail_average=share)
    models: dict[int, dict[str, np.ndarray]] = {}
    original = melfed.server.federation.rounds.save_checkpoint

    def save(folder, checkpoint):
        models[checkpoint.round] = checkpoint.model
        original(folder, checkpoint)

    monkeypatch.setattr(melfed.server.federation.rounds, "save_checkpoint", save)
    clinics = clinics_of(study)
    grid = grid_of(clinics)
    found = Run(tmp_path / "run", study, grid).conduct().models[""]
    for name, tensor in found.items():
        expected = np.mean([models[number][name] for number in averaged], axis=0, dtype=float)
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-7)
    # Clinics train from the round's own model, and score the average.
    for message in grid.sent:
        kind, number = message.metadata.message_type, int(message.metadata.group_id)
        if kind != messages.DESCRIBE:
            sent = held(message.content.array_records["tensors"])
            assert_equal(sent, found if kind == messages.EVALUATE else models[number - 1])
