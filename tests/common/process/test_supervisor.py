"""Children are started in order, come back after a pause, and leave nothing behind, whatever is killed."""

import os
import pwd
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from melfed.common.errors import StorageError
from melfed.common.process.launcher import bears, processes
from melfed.common.process.supervisor import Backoff, Child, ChildState, Supervisor
from tests.common.process.scenes import alive, number, root, shell, until

REPOSITORY = Path(__file__).resolve().parents[3]
QUICK = Backoff(first=0.05, factor=2.0, largest=0.2, reset_after=60.0)


class Scene:
    """A running supervisor with the events that it told."""

    def __init__(self, *children: Child, backoff: Backoff = QUICK) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.times: list[float] = []
        self.supervisor = Supervisor(children, self.hear, backoff)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.supervisor.run, args=(self.stop,))

    def hear(self, kind: str, name: str, detail: str) -> None:
        self.events.append((kind, name, detail))
        self.times.append(time.monotonic())

    def kinds(self, name: str) -> list[str]:
        return [kind for kind, who, _ in self.events if who == name]

    def state(self, name: str) -> ChildState:
        return self.supervisor.states()[name]

    def pid(self, name: str) -> int:
        until(lambda: self.state(name).pid)
        pid = self.state(name).pid
        assert pid is not None
        return pid

    def end(self) -> None:
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()


@contextmanager
def running(*children: Child, backoff: Backoff = QUICK) -> Iterator[Scene]:
    scene = Scene(*children, backoff=backoff)
    scene.thread.start()
    try:
        yield scene
    finally:
        scene.end()
        assert not [each for each in processes() if bears(each.pid, scene.supervisor._identity)]


def test_a_child_that_ends_comes_back_after_ever_longer_pauses() -> None:
    with running(shell("a", "exit 3")) as scene:
        until(lambda: scene.kinds("a").count("started") == 5)
        restarts = scene.state("a").restarts
    assert restarts == 4
    details = [detail for kind, _, detail in scene.events if kind == "ended"][:4]
    assert details == [f"exit code 3; next start in {pause} s" for pause in ("0.05", "0.1", "0.2", "0.2")]
    ended = [at for at, event in zip(scene.times, scene.events, strict=True) if event[0] == "ended"]
    started = [at for at, event in zip(scene.times, scene.events, strict=True) if event[0] == "started"]
    for pause, before, after in zip((0.05, 0.1, 0.2, 0.2), ended, started[1:], strict=False):
        assert pause - 0.01 <= after - before < pause + 10


def test_who_ran_long_enough_begins_with_the_first_pause_again() -> None:
    backoff = Backoff(first=0.05, factor=4, largest=5, reset_after=1.0)
    with running(shell("a", "exit 1"), shell("b", "sleep 1.2"), backoff=backoff) as scene:
        until(lambda: min(scene.kinds(name).count("ended") for name in "ab") >= 2)
    ended = [(name, detail) for kind, name, detail in scene.events if kind == "ended"]
    assert [detail for name, detail in ended if name == "a"][1] == "exit code 1; next start in 0.2 s"
    assert [detail for name, detail in ended if name == "b"][1] == "exit code 0; next start in 0.05 s"


def test_a_child_that_is_killed_comes_back_and_says_by_which_signal() -> None:
    with running(shell("a", "sleep 60")) as scene:
        first = scene.pid("a")
        assert scene.supervisor.signal("a", signal.SIGKILL)
        until(lambda: scene.state("a").restarts == 1)
        assert scene.pid("a") != first
        assert ("ended", "a", "signal SIGKILL; next start in 0.05 s") in scene.events
        assert scene.state("a").reason == "signal SIGKILL"


def test_while_it_waits_a_child_says_when_it_starts() -> None:
    with running(shell("a", "exit 1"), backoff=Backoff(first=50)) as scene:
        until(lambda: scene.kinds("a") == ["started", "ready", "ended"])
        state = scene.state("a")
        assert (state.status, state.pid, state.restarts) == ("waiting", None, 0)
        assert state.next_start is not None
        assert 45 < (state.next_start - state.since).total_seconds() <= 50.1
        assert not scene.supervisor.signal("a", signal.SIGHUP)
        began = time.monotonic()
    assert time.monotonic() - began < 20, "stopping does not wait for a pause"
    assert scene.state("a").status == "stopped"


def test_a_final_code_is_the_end_until_a_restart_is_asked_for(tmp_path: Path) -> None:
    child = shell("a", f"test -e {tmp_path}/mended && exec sleep 60; exit 11", final_codes=frozenset({11}))
    with running(child) as scene:
        until(lambda: scene.state("a").status == "failed")
        time.sleep(0.3)
        assert scene.kinds("a") == ["started", "ready", "failed"]
        (tmp_path / "mended").touch()
        scene.supervisor.restart("a")
        until(lambda: scene.state("a").status == "ready")
        assert scene.state("a").restarts == 1


def test_a_restart_does_not_wait_for_a_pause() -> None:
    with running(shell("a", "sleep 60"), shell("b", "exit 1"), backoff=Backoff(first=50)) as scene:
        until(lambda: "ended" in scene.kinds("b"))
        before = scene.pid("a")
        scene.supervisor.restart("a", "it hangs")
        scene.supervisor.restart("b")
        until(lambda: scene.state("a").restarts == 1 and scene.state("b").restarts == 1)
        assert scene.pid("a") != before
        assert ("ended", "a", "signal SIGTERM; it hangs") in scene.events
        with pytest.raises(KeyError):
            scene.supervisor.restart("c")


def test_children_end_in_reverse_order_each_before_the_next(tmp_path: Path) -> None:
    log = tmp_path / "order"
    script = "trap 'sleep 0.2; echo {0} >> {1}; exit' TERM; echo up > {2}; while :; do sleep 0.01; done"
    children = [shell(name, script.format(name, log, tmp_path / f"{name}.up")) for name in "abc"]
    with running(*children) as scene:
        until(lambda: all((tmp_path / f"{name}.up").exists() for name in "abc"))
    assert log.read_text().split() == ["c", "b", "a"]
    assert [name for kind, name, _ in scene.events if kind == "stopped"] == ["c", "b", "a"]
    assert {state.status for state in scene.supervisor.states().values()} == {"stopped"}


def test_who_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo up > {tmp_path}/up; while :; do sleep 1; done"
    with running(shell("a", script, stop_seconds=0.3)) as scene:
        until((tmp_path / "up").exists)
        scene.supervisor.restart("a")
        until(lambda: scene.state("a").restarts == 1)
        assert ("killed", "a", "did not end within 0.3 s of SIGTERM") in scene.events
        (tmp_path / "up").unlink()
        until((tmp_path / "up").exists)
        began = time.monotonic()
    assert 0.3 <= time.monotonic() - began < 20
    assert scene.kinds("a")[-2:] == ["killed", "stopped"]


def test_nobody_starts_before_those_it_needs_are_ready(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    first = shell("first", "sleep 60", ready=ready.exists)
    second = shell("second", "sleep 60", after=("first",))
    with running(first, second) as scene:
        until(lambda: scene.state("first").status == "starting")
        time.sleep(0.3)
        assert scene.state("second") == ChildState("second", None, "waiting", 0, scene.state("second").since, None, "")
        ready.touch()
        until(lambda: scene.state("second").status == "ready")
        ready.unlink()
        scene.supervisor.signal("first", signal.SIGKILL)
        until(lambda: scene.state("first").restarts == 1)
        scene.supervisor.signal("second", signal.SIGKILL)
        until(lambda: scene.state("second").pid is None)
        time.sleep(0.4)
        assert scene.state("second").pid is None, "it has to wait for the first again"
        ready.touch()
        until(lambda: scene.state("second").status == "ready")
    assert [event[:2] for event in scene.events][:4] == [
        ("started", "first"),
        ("ready", "first"),
        ("started", "second"),
        ("ready", "second"),
    ]


def test_what_is_never_ready_is_started_again() -> None:
    def not_yet() -> bool:
        raise ConnectionRefusedError

    with running(shell("a", "sleep 60", ready=not_yet, ready_seconds=0.3)) as scene:
        until(lambda: scene.state("a").restarts == 1)
        assert scene.kinds("a")[:3] == ["started", "unready", "ended"]


def test_what_a_child_leaves_behind_is_killed(tmp_path: Path) -> None:
    """Its group, a session of its own, and one that has written over its environment like nginx."""
    script = f"""
        sleep 60 & echo $! > {tmp_path}/plain
        setsid sleep 60 & echo $! > {tmp_path}/detached
        env -i sleep 60 & echo $! > {tmp_path}/unmarked
        trap '' TERM HUP
        sleep 60 & echo $! > {tmp_path}/stubborn
        while ! test -e {tmp_path}/go; do sleep 0.01; done
        exit 1
    """
    names = ("plain", "detached", "unmarked", "stubborn")
    with running(shell("a", script), backoff=Backoff(first=50)) as scene:
        pids = [number(tmp_path / name) for name in names]
        assert all(map(alive, pids))
        (tmp_path / "go").touch()
        until(lambda: scene.state("a").status == "waiting")
        assert not any(map(alive, pids))
        mine = {each.pid for each in processes() if each.parent == os.getpid()}
        assert not mine & set(pids), "nobody stays in the process table"


def test_stopping_ends_what_a_child_has_started_and_nobody_else(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        with running(shell("a", f"setsid sleep 60 & echo $! > {tmp_path}/pid; exec sleep 60")) as scene:
            pid = number(tmp_path / "pid")
        assert not alive(pid)
        assert scene.kinds("a") == ["started", "ready", "stopped"]
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_has_moved_from_its_child_to_the_supervisor_ends_with_the_latter(tmp_path: Path) -> None:
    """A process may outlive the child that started it by bearing another mark of the same supervisor."""
    script = f"""
        MELFED_CHILD=${{MELFED_CHILD%.*}}.own setsid sleep 60 & echo $! > {tmp_path}/pid
        while ! test -e {tmp_path}/go; do sleep 0.01; done
        exit 1
    """
    with running(shell("a", script), backoff=Backoff(first=50)) as scene:
        pid = number(tmp_path / "pid")
        until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
        (tmp_path / "go").touch()
        until(lambda: scene.state("a").status == "waiting")
        assert alive(pid)
    assert not alive(pid)
    assert pid not in {each.pid for each in processes()}, "nor does it stay in the process table"


@pytest.mark.parametrize("keeper", [True, False])
def test_when_the_supervisor_is_killed_nothing_goes_on(tmp_path: Path, keeper: bool) -> None:
    """With its keeper all that a child has started ends too; without, the child itself."""
    code = f"""
        import threading
        from melfed.common.process.supervisor import Child, Supervisor
        script = "echo $$ > {tmp_path}/child; setsid sleep 60 & echo $! > {tmp_path}/grandchild; exec sleep 60"
        supervisor = Supervisor([Child("a", ("sh", "-c", script))], lambda *event: None)
        threading.Timer(0.1, lambda: print(supervisor._keeper.pid, flush=True)).start()
        supervisor.run(threading.Event())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        child, grandchild = number(tmp_path / "child"), number(tmp_path / "grandchild")
        assert process.stdout is not None
        kept = int(process.stdout.readline())
        if not keeper:
            os.kill(kept, signal.SIGKILL)
        process.kill()
    until(lambda: not alive(child))
    if keeper:
        until(lambda: not alive(grandchild))
        until(lambda: not alive(kept))
    elif alive(grandchild):
        os.kill(grandchild, signal.SIGKILL)


def test_a_supervisor_can_be_the_child_of_another(tmp_path: Path) -> None:
    """When the inner one is killed, and its keeper, the outer one ends what the inner one's children have started."""
    code = f"""
        import threading
        from melfed.common.process.supervisor import Child, Supervisor
        script = "setsid sleep 60 & echo $! > {tmp_path}/pid; exec sleep 60"
        supervisor = Supervisor([Child("inner", ("sh", "-c", script))], lambda *event: None)
        threading.Timer(0.1, lambda: print(supervisor._keeper.pid, file=open("{tmp_path}/keeper", "w"))).start()
        supervisor.run(threading.Event())
    """
    child = Child("outer", (sys.executable, "-c", textwrap.dedent(code)), {"PYTHONPATH": str(REPOSITORY)})
    with running(child, backoff=Backoff(first=50)) as scene:
        pid = number(tmp_path / "pid")
        os.kill(number(tmp_path / "keeper"), signal.SIGKILL)
        scene.supervisor.signal("outer", signal.SIGKILL)
        until(lambda: scene.state("outer").status == "waiting")
        assert not alive(pid)


def test_an_event_that_cannot_be_recorded_ends_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def full(kind: str, name: str, detail: str) -> None:
        raise StorageError("audit.jsonl: cannot be written: disk full")

    stop = threading.Event()
    supervisor = Supervisor([shell("a", "sleep 60")], full, QUICK)
    thread = threading.Thread(target=supervisor.run, args=(stop,))
    thread.start()
    until(lambda: supervisor.states()["a"].status == "ready")
    assert thread.is_alive()
    stop.set()
    thread.join(10)
    assert "a started pid" in caplog.text
    assert "disk full" in caplog.text


@root
def test_a_child_runs_as_its_user_with_its_own_groups_alone(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "id -u; id -G; echo $HOME $USER; grep NoNewPrivs /proc/self/status; exit 1"
    before = os.getgroups()
    os.setgroups([0, 4])
    try:
        with running(shell("a", script, user="nobody", log=log, final_codes=frozenset({1}))) as scene:
            until(lambda: scene.state("a").status == "failed")
    finally:
        os.setgroups(before)
    entry = pwd.getpwnam("nobody")
    groups = " ".join(map(str, os.getgrouplist("nobody", entry.pw_gid)))
    assert log.read_text().splitlines() == [str(entry.pw_uid), groups, f"{entry.pw_dir} nobody", "NoNewPrivs:\t1"]
    assert log.stat().st_mode & 0o777 == 0o600


@root
def test_a_child_of_another_user_dies_with_the_supervisor(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    code = """
        import threading
        from melfed.common.process.supervisor import Child, Supervisor
        print("up", flush=True)
        supervisor = Supervisor([Child("a", ("sleep", "60"), user="nobody")], lambda k, n, d: print(d, flush=True))
        threading.Timer(0.1, lambda: print(supervisor._keeper.pid, flush=True)).start()
        supervisor.run(threading.Event())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]  # up, "pid N", "", the keeper's number
        child, keeper = int(lines[1].removeprefix("pid ")), int(lines[3])
        until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n")
        os.kill(keeper, signal.SIGKILL)
        process.kill()
    until(lambda: not alive(child))


def test_a_child_gets_its_environment_and_not_the_channel_to_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("INHERITED", "yes")
    script = f'echo "$INHERITED $OWN [$NOTIFY_SOCKET]" > {tmp_path}/out; exit 1'
    with running(shell("a", script, environment={"OWN": "too"}, final_codes=frozenset({1}))) as scene:
        until(lambda: scene.state("a").status == "failed")
    assert (tmp_path / "out").read_text() == "yes too []\n"


def test_all_that_a_child_prints_is_in_its_log(tmp_path: Path) -> None:
    log = tmp_path / "folder" / "log"
    with running(shell("a", "echo out; echo err >&2; exit 1", log=log)) as scene:
        until(lambda: scene.state("a").restarts == 2)
    lines = log.read_text().splitlines()
    assert len(lines) >= 4
    assert set(lines) == {"out", "err"}
    assert log.parent.stat().st_mode & 0o777 == 0o700


def test_readiness_of_the_process_before_is_not_taken_for_that_of_the_next(tmp_path: Path) -> None:
    asked: list[float] = []
    again = threading.Event()

    def late() -> bool:
        asked.append(time.monotonic())
        return len(asked) == 1 and again.wait(10)

    script = f"test -e {tmp_path}/again && exec sleep 60; touch {tmp_path}/again; sleep 0.3"
    with running(shell("a", script, ready=late)) as scene:
        until(lambda: scene.state("a").restarts == 1)
        again.set()
        time.sleep(0.3)
        assert len(asked) > 1
        assert scene.state("a").status == "starting"
