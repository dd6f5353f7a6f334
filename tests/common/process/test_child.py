"""Children: what can be started, and after which pause."""

import os
import signal
from pathlib import Path

import pytest

from melfed.common.errors import ServiceError
from melfed.common.process.child import check_children, in_words, start
from melfed.common.process.supervisor import Backoff, Child
from tests.common.process.scenes import root, shell


def test_pauses_stay_bounded_for_ever() -> None:
    pause, backoff = 0.0, Backoff()
    pauses = [pause := backoff.after(pause) for _ in range(5000)]
    assert pauses[:8] == [1, 2, 4, 8, 16, 32, 64, 90]
    assert set(pauses[8:]) == {90}


@pytest.mark.parametrize(
    ("children", "error", "message"),
    [
        ([Child("a", ("/no/such/program",))], ServiceError, "a: there is no program /no/such/program; install it"),
        ([shell("a", ""), shell("a", "")], ValueError, "child a"),
        ([shell("a", "", after=("b",)), shell("b", "")], ValueError, "child a"),
        ([shell("a", "", after=("a",))], ValueError, "child a"),
        pytest.param([shell("a", "", user="no-such-user")], ServiceError, "there is no user no-such-user", marks=root),
    ],
)
def test_children_that_cannot_be_started(children: list[Child], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_children(children)


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-99, "signal 99")]
)
def test_how_a_process_ended_in_words(code: int, words: str) -> None:
    assert in_words(code) == words


def test_a_child_is_started_in_a_session_of_its_own_with_its_mark_and_its_end_is_seen_before_its_code_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    output = tmp_path / "out"
    with output.open("wb") as file:
        child = shell("a", 'echo "$OWN [$NOTIFY_SOCKET] $MELFED_CHILD"; exit 3', environment={"OWN": "own"})
        process = start(child, "identity", file.fileno())
    assert os.getsid(process.pid) == process.pid
    process.await_end()
    assert process.ended.is_set()
    process.send(signal.SIGTERM)  # to nobody: its number is still its own
    assert process.process.wait() == 3
    assert output.read_text() == f"own [] {process.mark}\n"
    assert process.mark.startswith("identity.")
