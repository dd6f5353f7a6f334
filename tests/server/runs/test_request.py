"""What the coordinator asks for beside a study: read back as it was queued, and told where it is not there."""

from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.study.protocol import StudyProtocol
from melfed.common.study.recipe import Choice
from melfed.server.runs.request import NAME, queue_run, read_request
from melfed.server.runs.state import read_state

CHOICES = [
    Choice("model.train", "full", "because"),
    Choice("privacy.steps", 8, "few"),
    Choice("model.neck", None, "none"),
    Choice("data.positive", ("mel",), "a list is told as text"),
]


def test_what_was_queued_is_read_back_and_the_run_is_wanted(tmp_path: Path) -> None:
    study = StudyProtocol(name="s")
    folder = queue_run(tmp_path / "r", study, ["b", "a"], CHOICES)
    assert folder.study().digest == study.digest
    request = read_request(folder.path)
    assert request.clinics == ("b", "a")
    assert request.choices == (*CHOICES[:3], Choice("data.positive", "('mel',)", "a list is told as text"))
    state = read_state(folder.path)
    assert state is not None
    assert (state.status, state.wanted) == ("queued", True)


def test_a_folder_that_stands_there_is_left_alone_unless_another_name_will_do(tmp_path: Path) -> None:
    first = queue_run(tmp_path / "r", StudyProtocol(name="s"), ["a"], [])
    with pytest.raises(RunError):
        queue_run(tmp_path / "r", StudyProtocol(name="s"), ["b"], [])
    assert read_request(first.path).clinics == ("a",)
    assert queue_run(tmp_path / "r", StudyProtocol(name="s"), ["b"], [], fresh=True).path != first.path


def test_a_run_of_another_kind_and_a_damaged_request_are_told(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"not a deployed run \(it has no request.json\); start one with melfed-server run"
    ):
        read_request(tmp_path)
    for content in (b"", b"{}", b'{"clinics": []}', b"\xff"):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(
            RunError, match=r"request.json: cannot be read \(.*\); the run folder is damaged"
        ) as refused:
            read_request(tmp_path)
        assert "\n" not in str(refused.value)
