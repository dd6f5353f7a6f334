"""What killed runs leave is cleared, with their processes; what living ones use is not touched. In real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from melfed.simulations.engine import workspace as module
from melfed.simulations.engine.workspace import LOCK, PREFIX, VARIABLE, clear, workspace

OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from melfed.simulations.engine.workspace import VARIABLE, workspace
with workspace(Path(sys.argv[1])) as folder:
    environment = {**os.environ, VARIABLE: str(folder)}
    child = subprocess.Popen(["sleep", "300"], env=environment, start_new_session=True)
    print(folder, child.pid, flush=True)
    time.sleep(300)
"""


class Owner:
    """A process that has a workspace, and a child as Ray has: in a session of its own."""

    def __init__(self, parent: Path) -> None:
        root = str(Path(__file__).resolve().parents[3])
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(parent)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert self.process.stdout is not None
        folder, child = self.process.stdout.readline().rsplit(" ", 1)
        self.folder, self.child = Path(folder), int(child)
        # The pipe to a child is closed before the new program's environment is in place.
        deadline = time.monotonic() + 30
        while not self.child_lives():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def child_lives(self) -> bool:
        try:
            return VARIABLE.encode() in Path(f"/proc/{self.child}/environ").read_bytes()
        except OSError:
            return False

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()
        if self.child_lives():
            os.kill(self.child, signal.SIGKILL)


@pytest.fixture
def owners(tmp_path: Path) -> Iterator[tuple[Owner, Owner]]:
    both = Owner(tmp_path), Owner(tmp_path)
    yield both
    for owner in both:
        owner.end()


def test_the_next_run_clears_what_a_dead_one_left_and_nothing_of_a_living_one(
    owners: tuple[Owner, Owner], tmp_path: Path
) -> None:
    dead, living = owners
    assert clear(tmp_path) == []
    dead.kill()
    assert dead.folder.is_dir()
    assert dead.child_lives(), "it outlives its run, as Ray's agents do"
    with workspace(tmp_path) as mine:
        assert not dead.folder.exists()
        assert living.folder.is_dir()
        assert mine.is_dir()
        deadline = time.monotonic() + 10
        while dead.child_lives():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert living.child_lives()
        assert living.process.poll() is None
        assert clear(tmp_path) == [], "one's own is a living one's"
    assert not mine.exists()
    assert not list(tmp_path.glob(f".{PREFIX}*"))


def test_what_is_no_workspace_stays(tmp_path: Path) -> None:
    (tmp_path / f"{PREFIX}notes").mkdir()
    (tmp_path / f"{PREFIX}file").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / LOCK).touch()
    (tmp_path / f"{PREFIX}link").symlink_to(tmp_path / "elsewhere")
    assert clear(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 4
    (tmp_path / f"{PREFIX}notes" / LOCK).touch()
    assert clear(tmp_path) == [tmp_path / f"{PREFIX}notes"]


def test_another_users_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"{PREFIX}theirs").mkdir()
    (tmp_path / f"{PREFIX}theirs" / LOCK).touch()
    monkeypatch.setattr(module.os, "geteuid", lambda: os.getuid() + 1)
    assert clear(tmp_path) == []


def test_a_long_folder_for_temporary_files_is_none_for_rays_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.tempfile, "gettempdir", lambda: str(tmp_path / ("x" * 60)))
    with workspace() as folder:
        assert folder.parent == Path("/tmp")
