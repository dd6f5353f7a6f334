"""The daemon's loop, with a SuperLink and an nginx that are scripted."""

import errno
import os
import shutil
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest

from melfed.common.audit.log import AuditLog, read_log
from melfed.common.errors import ServiceError, StorageError
from melfed.common.locks import only_one
from melfed.common.study.protocol import StudyProtocol
from melfed.server.clinics.registry import ClinicRecord, approve, revoke
from melfed.server.config import ServerConfig, read_server
from melfed.server.daemon.reconciler import ATTEMPTS, LONGEST_PAUSE, SILENT_SECONDS, START_SECONDS, Reconciler
from melfed.server.flower.control_client import FlowerNode, FlowerRun, public_key
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.request import queue_run
from melfed.server.runs.state import CONDUCTED, change_state, read_state
from tests.server.coordinator import make_kits


@dataclass
class FakeControl:
    """A SuperLink in memory."""

    known: list[FlowerNode] = field(default_factory=list)
    flower: dict[int, FlowerRun] = field(default_factory=dict)
    stopped: list[int] = field(default_factory=list)
    down: bool = False
    next: int = 1

    def _check(self) -> None:
        if self.down:
            raise ServiceError("SuperLink cannot be reached")

    def register(self, record: ClinicRecord) -> int:
        self._check()
        self.next += 1
        self.known.append(FlowerNode(self.next, record.name, public_key(record), True, None))
        return self.next

    def unregister(self, node_id: int) -> None:
        self._check()
        self.known = [node for node in self.known if node.node_id != node_id]

    def nodes(self) -> tuple[FlowerNode, ...]:
        self._check()
        return tuple(self.known)

    def start_run(self, run: str, bundle: bytes) -> int:
        self._check()
        self.next += 1
        self.flower[self.next] = FlowerRun(self.next, run, "running", "")
        return self.next

    def stop_run(self, run_id: int) -> None:
        self._check()
        self.stopped.append(run_id)
        self.end(run_id, "stopped")

    def run(self, run_id: int) -> FlowerRun | None:
        self._check()
        return self.flower.get(run_id)

    def runs(self) -> tuple[FlowerRun, ...]:
        self._check()
        return tuple(self.flower.values())

    def end(self, run_id: int, status: str) -> None:
        self.flower[run_id] = replace(self.flower[run_id], status=status)


@dataclass
class FakeGate:
    """An nginx in memory."""

    let_in: tuple[str, ...] | None = None
    reloads: int = 0

    def write(self, clinics: tuple[ClinicRecord, ...]) -> bool:
        names = tuple(record.name for record in clinics if not record.revoked)
        changed, self.let_in = names != self.let_in, names
        return changed

    def reload(self) -> bool:
        self.reloads += 1
        return True


class Place:
    """A reconciler and everything around it; its clock is moved by hand."""

    def __init__(self, config: ServerConfig) -> None:
        self.config, self.now = config, 1000.0
        self.control, self.gate = FakeControl(), FakeGate()
        self.renew()

    def renew(self) -> None:
        """As after a restart of the daemon."""
        audit = AuditLog(self.config.audit_log, "daemon")
        self.reconciler = Reconciler(self.config, self.control, self.gate, b"fab", audit, lambda: self.now)

    def step(self, seconds: float = 1.0) -> None:
        self.now += seconds
        self.reconciler.step()

    def queue(self, name: str = "r") -> RunFolder:
        return queue_run(self.config.runs / name, StudyProtocol(name=name), ("a",), [])

    def events(self) -> list[str]:
        return [str(row["event"]) for row in read_log(self.config.audit_log)]


@pytest.fixture(scope="module")
def kits(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    return make_kits(tmp_path_factory.mktemp("kits"))


@pytest.fixture
def place(kits: ServerConfig, tmp_path: Path) -> Place:
    shutil.copytree(kits.folder, tmp_path / "server")
    return Place(read_server(tmp_path / "server" / "server.yaml"))


def test_approved_clinics_are_registered_and_revoked_ones_leave(place):
    place.step()
    assert sorted(node.name for node in place.control.known) == ["a", "b", "c"]
    assert place.gate.let_in == ("a", "b", "c")
    revoke(place.config.clinics, "b")
    place.step()
    assert sorted(node.name for node in place.control.known) == ["a", "c"]
    assert place.gate.let_in == ("a", "c")
    approve(place.config.clinics, place.config.clinics / "b.json")
    place.step()
    assert sorted(node.name for node in place.control.known) == ["a", "b", "c"]
    assert place.events().count("clinic-revoked") == 1
    assert place.events().count("clinic-approved") == 4
    reloads = place.gate.reloads
    place.step()
    assert place.gate.reloads == reloads


def test_a_key_that_nobody_approved_is_thrown_out(place):
    place.control.known = [FlowerNode(9, "stranger", b"key", True, None)]
    place.step()
    assert "stranger" not in {node.name for node in place.control.known}


def test_a_damaged_record_changes_nothing_and_is_told_of(place):
    place.step()
    (place.config.clinics / "b.json").write_text("{")
    place.step()
    assert sorted(node.name for node in place.control.known) == ["a", "b", "c"]
    assert any("b.json" in problem for problem in place.reconciler.problems)
    (place.config.clinics / "b.json").unlink()
    place.step()
    assert place.reconciler.problems == ()
    assert sorted(node.name for node in place.control.known) == ["a", "c"]


def test_clinics_that_cannot_be_read_are_not_thrown_out(place):
    place.step()
    folder = place.config.clinics
    folder.rename(folder.with_name("away"))
    folder.write_text("not a folder: root may read any")
    place.step()
    assert sorted(node.name for node in place.control.known) == ["a", "b", "c"]
    assert place.gate.let_in == ("a", "b", "c")
    assert any("cannot be read" in problem for problem in place.reconciler.problems)
    assert "clinic-revoked" not in place.events()


def test_a_wanted_run_is_submitted_once(place):
    folder = place.queue()
    for _ in range(5):
        place.step()
    state = read_state(folder.path)
    assert [run.run for run in place.control.flower.values()] == ["r"]
    assert state.flower_run in place.control.flower
    assert state.status == "queued"
    assert place.events().count("run-submitted") == 1
    (row,) = [row for row in read_log(place.config.audit_log) if row["event"] == "run-submitted"]
    assert (row["run"], row["name"]) == (folder.identity, "r")


def test_a_run_that_is_conducted_is_left_alone(place):
    folder = place.queue()
    place.step()
    change_state(folder.path, status="running")
    with only_one(folder.path / CONDUCTED, "x"):
        for _ in range(5):
            place.step(1000)
    assert (len(place.control.flower), place.control.stopped) == (1, [])


def test_a_run_whose_process_has_died_goes_on_under_another_flower_run(place):
    """Flower says that it is running until the heartbeat is missed; the lock says at once that it is not."""
    folder = place.queue()
    place.step()
    first = read_state(folder.path).flower_run
    change_state(folder.path, status="running", round=1)
    place.step(60)
    assert place.control.stopped == [first]
    assert read_state(folder.path).flower_run not in (None, first)
    assert read_state(folder.path).status == "queued"


@pytest.mark.parametrize("status", ["failed", "completed", "stopped"])
def test_one_whose_flower_run_ended_without_a_last_word_goes_on(place, status):
    folder = place.queue()
    place.step()
    first = read_state(folder.path).flower_run
    change_state(folder.path, status="running")
    place.control.end(first, status)
    place.step(60)
    assert read_state(folder.path).flower_run != first


def test_one_that_flower_has_forgotten_goes_on(place):
    folder = place.queue()
    place.step()
    place.control.flower.clear()
    place.step(60)
    assert len(place.control.flower) == 1
    assert read_state(folder.path).flower_run in place.control.flower


def test_one_that_never_begins_is_submitted_again(place):
    folder = place.queue()
    place.step()
    first = read_state(folder.path).flower_run
    place.step(START_SECONDS / 2)
    assert read_state(folder.path).flower_run == first
    place.step(START_SECONDS)
    assert place.control.stopped == [first]
    second = read_state(folder.path).flower_run
    assert second != first
    # A machine that was too slow once is given more time.
    place.step(1.5 * START_SECONDS)
    assert read_state(folder.path).flower_run == second
    place.step(START_SECONDS)
    assert place.control.stopped == [first, second]


def test_starts_back_off_and_end_where_the_run_gets_no_further(place):
    folder = place.queue()
    times = []
    for _ in range(260):
        before = place.control.next
        place.step()
        if place.control.next != before and any(run.active for run in place.control.flower.values()):
            times.append(place.now)
            change_state(folder.path, status="running")
            place.control.end(read_state(folder.path).flower_run, "failed")
    gaps = [round(later - earlier) for earlier, later in pairwise(times)]
    assert gaps == [2, 4, 8, 16, 32, 60, 60]
    assert len(times) == ATTEMPTS
    state = read_state(folder.path)
    assert (state.status, state.wanted) == ("failed", False)
    assert f"ended {ATTEMPTS} times" in state.reason


def test_a_round_that_is_done_gives_new_attempts(place):
    folder = place.queue()
    for number in range(3 * ATTEMPTS):
        place.step(120)
        change_state(folder.path, status="running", round=number)
        place.control.end(read_state(folder.path).flower_run, "failed")
    assert read_state(folder.path).wanted
    assert place.events().count("run-submitted") == 3 * ATTEMPTS


def test_a_run_that_waits_for_space_is_never_given_up(place):
    folder = place.queue()
    for _ in range(3 * ATTEMPTS):
        place.step(120)
        place.control.end(read_state(folder.path).flower_run, "failed")
        change_state(folder.path, status="failed", reason="disk full")
    assert read_state(folder.path).wanted


def test_it_goes_on_when_there_is_space_though_superlink_does_not_start_it_at_once(place, monkeypatch):
    """The attempts of a long night count for nothing; the pauses between them stay as long as they have become."""
    folder, times = place.queue(), []
    for _ in range(600):
        before = place.control.next
        place.step()
        if place.control.next != before:
            times.append(place.now)
            place.control.end(read_state(folder.path).flower_run, "failed")
            change_state(folder.path, status="failed", reason="disk full")
    assert len(times) > ATTEMPTS
    assert times[-1] - times[-2] == LONGEST_PAUSE

    def slow(*_):
        raise ServiceError("SuperLink: cannot start a run: timed out")

    with monkeypatch.context() as patch:
        patch.setattr(place.control, "start_run", slow)
        place.step(120)
        assert read_state(folder.path).status == "queued"
    place.step()
    state = read_state(folder.path)
    assert (state.wanted, state.status) == (True, "queued")
    assert state.flower_run in place.control.flower


def test_nor_is_one_that_could_not_even_write_that_it_failed(place, monkeypatch):
    folder = place.queue()
    with monkeypatch.context() as patch:
        patch.setattr("melfed.server.daemon.reconciler.LOW_BYTES", 2**62)
        place.step()
        for _ in range(3 * ATTEMPTS):
            change_state(folder.path, status="running")
            place.control.end(read_state(folder.path).flower_run, "failed")
            place.step(120)
    change_state(folder.path, status="running")
    place.control.end(read_state(folder.path).flower_run, "failed")
    place.step(120)
    state = read_state(folder.path)
    assert (state.wanted, state.status) == (True, "queued")


def test_a_run_may_be_resumed_by_hand_as_often_as_one_likes(place):
    folder = place.queue()
    for _ in range(ATTEMPTS + 1):
        place.step(120)
        assert read_state(folder.path).wanted
        place.control.end(read_state(folder.path).flower_run, "failed")
        change_state(folder.path, status="failed", reason="quorum: 1 of 3", wanted=False)
        place.step()
        change_state(folder.path, status="queued", reason="", wanted=True)
    place.step()
    assert read_state(folder.path).wanted
    assert read_state(folder.path).flower_run in place.control.flower


@pytest.mark.parametrize("status", ["failed", "completed", "stopped"])
def test_a_run_that_is_over_is_not_submitted(place, status):
    folder = place.queue()
    change_state(folder.path, status=status, wanted=False)
    place.step()
    assert place.control.flower == {}
    assert read_state(folder.path).status == status


def test_a_stop_reaches_flower_and_is_written_down_when_it_has_happened(place):
    folder = place.queue()
    place.step()
    first = read_state(folder.path).flower_run
    with only_one(folder.path / CONDUCTED, "x"):
        change_state(folder.path, status="running", wanted=False)
        place.step()
        assert place.control.stopped == [first]
        assert read_state(folder.path).status == "running"
    place.step()
    assert read_state(folder.path).status == "stopped"
    assert "run-stopped" in place.events()
    place.step(500)
    assert len(place.control.flower) == 1


def test_flower_runs_of_nobody_are_stopped_at_the_start_alone(place):
    folder = place.queue()
    place.step()
    mine = read_state(folder.path).flower_run
    place.control.flower[77] = FlowerRun(77, "r", "running", "")
    place.step()
    assert place.control.stopped == []  # a roll-call, perhaps
    place.renew()
    place.step()
    assert place.control.stopped == [77]
    assert place.control.flower[mine].active


def test_a_superlink_that_is_away_is_told_of_and_waited_for(place):
    folder = place.queue()
    place.control.down = True
    place.step()
    assert place.reconciler.problems
    assert read_state(folder.path).status == "queued"
    place.control.down = False
    place.step()
    assert place.reconciler.problems == ()
    assert read_state(folder.path).flower_run in place.control.flower


def test_a_superlink_that_gives_no_answer_for_long_hangs(place, monkeypatch):
    place.step()
    assert place.reconciler.silent_since is None
    place.control.down = True
    (place.config.clinics / "b.json").write_text("{")  # what else is wrong changes nothing
    place.step()
    assert place.reconciler.silent_since == place.now
    place.step(SILENT_SECONDS - 1)
    assert not place.reconciler.hangs()
    place.step()
    assert place.reconciler.hangs()
    with monkeypatch.context() as patch:
        patch.setattr("melfed.server.daemon.reconciler.LOW_BYTES", 2**62)
        place.step()
        assert not place.reconciler.hangs()  # its database has no space; it goes on by itself
    place.control.down = False
    place.step()
    assert place.reconciler.silent_since is None
    assert not place.reconciler.hangs()


def test_a_superlink_that_hangs_is_asked_once_in_a_step(place, monkeypatch):
    """Each question takes 20 s then; nginx goes by the present list of clinics all the same."""
    asked = []
    for name in ("a", "b"):
        change_state(place.queue(name).path, status="running", flower_run=9)
    place.control.down = True
    for name in ("nodes", "run", "runs", "start_run", "stop_run", "register", "unregister"):
        method = getattr(place.control, name)
        monkeypatch.setattr(
            place.control, name, lambda *words, name=name, method=method: (asked.append(name), method(*words))[1]
        )
    place.step()
    assert asked == ["nodes"]
    assert place.gate.let_in == ("a", "b", "c")


def test_a_damaged_run_does_not_keep_others_from_starting(place):
    place.queue("a")
    (place.config.runs / "a" / "state.json").write_text("{")
    folder = place.queue("b")
    place.step()
    assert any("state.json" in problem for problem in place.reconciler.problems)
    assert read_state(folder.path).flower_run is not None


def test_want_of_space_is_an_event_and_told_of_once(place, monkeypatch):
    monkeypatch.setattr("melfed.server.daemon.reconciler.LOW_BYTES", 2**62)
    place.step()
    place.step()
    assert place.events().count("disk-full") == 1
    assert any("free space" in problem for problem in place.reconciler.problems)


def test_want_of_space_for_runs_is_told_of_as_well(place, monkeypatch):
    usage = shutil.disk_usage

    def low(path):
        return usage(path)._replace(free=0) if path == place.config.runs else usage(path)

    monkeypatch.setattr("melfed.server.daemon.reconciler.LOW_BYTES", 1)
    monkeypatch.setattr(shutil, "disk_usage", low)
    place.config.runs.mkdir(exist_ok=True)
    place.step()
    assert [problem.partition(": ")[2] for problem in place.reconciler.problems] == [
        "less than 0 MiB of disk are left for runs; free space"
    ]


def test_a_full_disk_does_not_end_the_loop(place, monkeypatch):
    def full(*_):
        raise StorageError("nginx.conf: cannot be written: No space left on device")

    folder = place.queue()
    monkeypatch.setattr(place.gate, "write", full)
    place.step()
    assert any("No space" in problem for problem in place.reconciler.problems)
    assert read_state(folder.path).flower_run is not None  # the other parts go on
    assert "disk-full" in place.events()


def test_a_full_disk_keeps_no_event_out_of_the_log_for_good(place, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "_append", full)
        place.queue()
        place.step()
        assert any("No space" in problem for problem in place.reconciler.problems)
        assert place.control.flower
        place.step()
    place.step()
    assert place.reconciler.problems == ()
    assert place.events().count("disk-full") == 1
    assert {"clinic-approved", "edge-reloaded", "run-submitted"} <= set(place.events())
