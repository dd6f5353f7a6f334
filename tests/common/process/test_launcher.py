"""The launcher becomes a child; processes are found by their mark and ended."""

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from melfed.common.process.child import script
from melfed.common.process.launcher import VARIABLE, bears, end_family, family, processes
from tests.common.process.scenes import until


@pytest.mark.parametrize(
    ("parent", "program", "code", "output"),
    [
        ("me", "true", 0, ""),
        ("another", "true", 125, ""),  # the supervisor has died meanwhile
        ("me", "/no/such/program", 127, "/no/such/program: cannot be started: No such file or directory\n"),
        ("me", "/", 126, "/: cannot be started: Permission denied\n"),
    ],
)
def test_the_launcher_becomes_the_program_or_says_why_not(parent: str, program: str, code: int, output: str) -> None:
    number = os.getpid() if parent == "me" else 1
    done = subprocess.run([*script("exec"), str(number), "", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (code, output)


def marked(mark: str, *command: str) -> "subprocess.Popen[bytes]":
    """A process that bears a mark, once it does."""
    process = subprocess.Popen(command, env={**os.environ, VARIABLE: mark}, start_new_session=True)
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == f"{command[0]}\n")
    return process


def test_a_process_is_found_by_its_mark_or_session_and_ended_and_no_other_is() -> None:
    mine, below, stranger = (marked(mark, "sleep", "60") for mark in ("a.1", "outer/a.1.x/b", "a.12"))
    try:
        assert bears(mine.pid, "a.1")
        assert bears(below.pid, "a.1")  # a child of a child, whose mark begins so
        assert bears(below.pid, "outer")
        assert not bears(stranger.pid, "a.1")
        assert family([], "a.1") == {mine.pid, below.pid}
        assert family([stranger.pid], "no such mark") == {stranger.pid}
        killed = threading.Thread(target=lambda: [each.wait() for each in (mine, below)])
        killed.start()
        assert end_family([], "a.1") == {mine.pid, below.pid}
        killed.join(10)
        assert [each.returncode for each in (mine, below)] == [-signal.SIGKILL] * 2
        assert family([], "a.1") == set()
        assert stranger.poll() is None
    finally:
        for each in (mine, below, stranger):
            each.kill()
            each.wait()


def test_this_process_is_in_the_table_with_its_parent_and_session() -> None:
    (own,) = (each for each in processes() if each.pid == os.getpid())
    assert (own.parent, own.session) == (os.getppid(), os.getsid(0))
    assert not bears(2**22 + 1, "a.1")  # no such process
