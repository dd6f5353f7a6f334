"""What the benchmark's stack stands on: rows of logs, free ports, waiting, and commands that fail with their words."""

import os
import sys
import time
from pathlib import Path

import pytest

from melfed.simulations.benchmarks.deployment_stack import Stack, free_ports, has_nginx, rows, until


def test_rows_of_a_log_and_none_where_there_is_no_file_yet(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    assert rows(path) == []
    path.write_text('{"a": 1}\n{"a": "ä"}\n', encoding="utf-8")
    assert rows(path) == [{"a": 1}, {"a": "ä"}]


def test_ports_are_different_and_free() -> None:
    found = list(free_ports(20))
    assert len(set(found)) == 20


def test_waiting_ends_when_it_is_so_or_says_what_was_waited_for() -> None:
    began = time.monotonic()
    until("it is so", lambda: time.monotonic() - began > 0.02, every=0.001)
    with pytest.raises(RuntimeError, match=r"^not within 0.01 s: it is so$"):
        until("it is so", lambda: False, seconds=0.01, every=0.001)


def test_nginx_is_looked_for_where_programs_of_the_system_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert has_nginx()


@pytest.fixture
def stack(tmp_path: Path) -> Stack:
    """A stack that nobody has provisioned."""
    made = Stack.__new__(Stack)
    made.folder, made.daemons, made.environment = tmp_path, {}, dict(os.environ)
    return made


def test_a_command_that_fails_is_told_with_all_that_it_said(stack: Stack) -> None:
    python = Path(sys.executable)
    assert stack.command(python, "-c", "print('well')") == "well\n"
    with pytest.raises(RuntimeError, match=r"-c .*: exit code 3\nout\nerr\n$"):
        stack.command(python, "-c", "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)")


def test_the_round_is_that_of_the_runs_state(stack: Stack) -> None:
    assert stack.round("r") == 0
    folder = stack.run_folder("r")
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"round": 7}')
    assert stack.round("r") == 7


def test_daemons_end_with_the_stack_and_one_that_has_ended_is_told(stack: Stack) -> None:
    with stack:
        stack._start("server", Path(sys.executable), "-c", "import time; time.sleep(60)")
        stack._check_daemons()
        stack._start("clinic", Path(sys.executable), "-c", "print('broken')")
        stack.daemons["clinic"].wait(20)
        with pytest.raises(RuntimeError, match=r"^clinic has ended:\nbroken\n$"):
            stack._check_daemons()
    assert stack.daemons["server"].returncode == -15
