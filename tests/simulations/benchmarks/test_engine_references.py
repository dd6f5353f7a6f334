"""What the engine is held against, at a small size: the plain loop."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from melfed.common.study.build import build_study_classifier
from melfed.common.study.file import recorded_study
from melfed.simulations.benchmarks.engine import write_clinics
from melfed.simulations.benchmarks.engine_references import STUDY, CheckedGrid, Data, fit, loop, score


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_clinics(tmp_path, clinics=3, images=12, rounds=2)
    return tmp_path


def test_the_references_see_each_image_once(folder: Path) -> None:
    data = Data(folder)
    parts = [data.part(1, name) for name in ("train", "validation", "test")]
    assert [len(part.targets) for part in parts] == [8, 2, 2]
    assert sorted(np.concatenate([part.targets for part in parts])) == sorted(data.targets[1])
    assert len(torch.cat([part.pixels for part in parts]).flatten(1).unique(dim=0)) == 12


def test_the_reference_learns(folder: Path) -> None:
    study, part = recorded_study(folder / STUDY), Data(folder).part(0, "train")
    model = build_study_classifier(study)
    before = score(model, part)
    for _ in range(20):
        fit(model, part, study)
    assert score(model, part) < before


def test_the_loop_tells_its_rounds_and_the_evaluation(folder: Path) -> None:
    seconds = list(loop(folder, rounds=2))
    assert len(seconds) == 3
    assert all(second > 0 for second in seconds)


class _OneFails:
    """A grid whose second clinic fails."""

    names = ("first", "second")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float) -> list[Message]:
        assert timeout == 5
        good, bad = messages
        return [Message(RecordDict(), reply_to=good), Message(Error(0, "no memory"), reply_to=bad)]


def test_a_failed_clinic_ends_the_run() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    asked = [Message(RecordDict(), dst_node_id=node, message_type="train") for node in (1, 2)]
    grid = CheckedGrid(_OneFails())
    assert grid.names == ("first", "second")
    with pytest.raises(RuntimeError, match="a clinic failed: no memory"):
        grid.send_and_receive(asked, timeout=5)
