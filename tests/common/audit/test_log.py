"""Whatever is done to an audit log's lines is found, no crash and no full disk spoils it, and no patient is in it."""

import errno
import fcntl
import io
import json
import logging
import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.audit import log as audit_log
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, configure_logging, read_log, verify_log
from melfed.common.errors import StorageError
from melfed.common.hash_chain import GENESIS

REPOSITORY = Path(__file__).resolve().parents[3]


def filled(path: Path, rows: int = 5) -> AuditLog:
    log = AuditLog(path, "worker")
    for number in range(rows):
        log.record(Event.REQUEST_DECLINED, kind="train", round=number, reason="σ is below the policy's")
    return log


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[bytes], str]:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    filled(path)
    return lines(path), verify_log(path).head


def test_a_record_holds_what_was_told_and_when(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path, "daemon")
    log.record(Event.ROUND_FINISHED, run="r-1", round=2, answered=["a", "b"], failed=[], seconds=1.5)
    log.record(Event.LEDGER_CHARGED, epsilon=float("inf"), delta=None)
    first, second = read_log(path)
    assert list(first) == [
        *("time", "id", "event", "who", "run", "round", "answered", "failed", "seconds", "previous", "hash")
    ]
    assert (first["id"], first["event"], first["who"]) == (2006, "round-finished", "daemon")
    assert (first["run"], first["round"], first["answered"], first["failed"]) == ("r-1", 2, ["a", "b"], [])
    assert isinstance(first["time"], str)
    assert abs(time.time() - datetime.fromisoformat(first["time"]).timestamp()) < 60
    assert first["time"].endswith("+00:00")
    assert (second["epsilon"], second["delta"]) == ("inf", None)
    assert first["previous"] == GENESIS
    assert second["previous"] == first["hash"]
    verified = verify_log(path)
    assert (verified.rows, verified.head, verified.error, verified.torn) == (2, second["hash"], None, 0)
    assert path.stat().st_mode & 0o777 == 0o600


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_edit_drop_and_move_is_found(
    data: st.DataObject, whole: tuple[list[bytes], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows, head = whole
    kind = data.draw(st.sampled_from(["byte", "insert", "drop", "move", "double", "cut"]))
    number = data.draw(st.integers(0, len(rows) - 1))
    changed = list(rows)
    text = b"".join(rows)
    at = data.draw(st.integers(0, len(text) - 1))
    if kind == "byte":
        other = data.draw(st.integers(0, 255).filter(lambda value: value != text[at]))
        result = text[:at] + bytes([other]) + text[at + 1 :]
    elif kind == "insert":
        result = text[:at] + data.draw(st.binary(min_size=1, max_size=4)) + text[at:]
    elif kind == "cut":
        result = text[:at] + text[at + data.draw(st.integers(1, 2000)) :]
    else:
        row = changed.pop(number)
        if kind == "move":
            changed.insert(data.draw(st.integers(0, len(changed)).filter(lambda to: to != number)), row)
        elif kind == "double":
            changed[number:number] = [row, row]
        result = b"".join(changed)
    path = tmp_path_factory.mktemp("changed") / "audit.jsonl"
    path.write_bytes(result)
    assert verify_log(path, head).error is not None
    # Without the head, only what was cut off at the end is taken for the trace of a crash, or is not to be seen.
    alone = verify_log(path)
    assert alone.error is not None or alone.torn or text.startswith(result)


def test_an_error_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    filled(path)
    rows = lines(path)
    path.write_bytes(b"".join([*rows[:2], rows[2].replace(b"train", b"brain"), *rows[3:]]))
    assert verify_log(path).error == f"{path}: line 3: is not what was written: its hash does not fit"
    path.write_bytes(b"".join([*rows[:1], *rows[2:]]))
    error = "line 2: does not follow the line before it: lines were dropped, moved or replaced"
    assert verify_log(path).error == f"{path}: {error}"
    path.write_bytes(b"".join(rows[1:]))
    assert "line 1" in str(verify_log(path).error)


def test_lines_cut_off_at_the_end_are_found_with_a_kept_head(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    head = verify_log(path).head
    rows = lines(path)
    path.write_bytes(b"".join(rows[:3]))
    assert verify_log(path).error is None
    assert verify_log(path, head).error == f"{path}: line 4: no record has the hash {head}: " + (
        "lines were cut off or replaced"
    )
    path.write_bytes(b"".join(rows))
    log.record(Event.WORKER_STOPPED)
    assert verify_log(path, head).error is None, "a log goes on after the head was kept"
    assert verify_log(path, GENESIS).error is None


@pytest.mark.parametrize("rest", [b'{"time":"20', b"\0" * 500, b'{"time":"2026\0\0\0\0\n', b"x" * 200_000])
def test_what_a_crash_has_left_is_mended_by_the_next_record(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    before = path.read_bytes()
    path.write_bytes(before + rest)
    verified = verify_log(path)
    assert (verified.rows, verified.error, verified.torn) == (5, None, len(rest))
    log.record(Event.WORKER_STOPPED, reason="SIGTERM")
    verified = verify_log(path)
    assert (verified.rows, verified.error, verified.torn) == (6, None, 0)
    assert path.read_bytes().startswith(before)
    assert [row.get("mended") for row in read_log(path)] == [None] * 5 + [len(rest)]


def test_a_torn_first_record(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"ti')
    assert verify_log(path) == audit_log.VerifiedLog(0, GENESIS, None, 4)
    AuditLog(path).record(Event.WORKER_STARTED)
    assert verify_log(path).rows == 1


def test_a_log_with_a_damaged_last_line_goes_on_and_the_damage_stays(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path)
    path.write_bytes(path.read_bytes()[:-10] + b"0" * 8 + b"}\n")
    log.record(Event.WORKER_STOPPED)
    assert "line 5: is not what was written" in str(verify_log(path).error)
    assert [row["event"] for row in read_log(path)] == ["request-declined"] * 4 + ["worker-stopped"]


def test_processes_that_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=filled, args=(path, 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        if path.exists():
            assert verify_log(path).error is None
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert (verify_log(path).rows, verify_log(path).error) == (100, None)


def test_a_log_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    log = filled(path, 1)
    monkeypatch.setattr(audit_log, "LOCK_SECONDS", 0.1)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=r"process \d+ \(.+\) has held it for 0\.1 s"):
            log.record(Event.WORKER_STOPPED)
        with pytest.raises(StorageError, match="has held it"):
            verify_log(path)
    log.record(Event.WORKER_STOPPED)
    assert verify_log(path).rows == 2


def test_a_disk_that_is_full_in_the_middle_of_a_record(tmp_path: Path) -> None:
    """The kernel itself refuses to write, in a process of its own."""
    path = tmp_path / "audit.jsonl"
    filled(path)
    before = path.read_bytes()
    code = f"""
        import resource, signal, sys
        from pathlib import Path
        from melfed.common.audit.log import AuditLog
        from melfed.common.errors import StorageError
        from melfed.common.audit.events import Event
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 50}, {len(before) + 50}))
        try:
            AuditLog(Path(sys.argv[1])).record(Event.WORKER_STOPPED, reason="SIGTERM")
        except StorageError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot be written: File too large; free space")
    assert path.read_bytes() == before
    filled(path, 1)
    assert (verify_log(path).rows, verify_log(path).error) == (6, None)


def test_a_record_that_is_not_durable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "audit.jsonl"
    log = filled(path)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            log.record(Event.WORKER_STOPPED)
    assert path.read_bytes() == before


def test_what_a_full_disk_kept_out_is_written_with_its_own_time_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "audit.jsonl"
    log = filled(path)
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "melfed.audit"):
        patch.setattr(os, "fsync", full)
        log.record_or_hold(Event.CLINIC_DISK_FULL, reason="first")
        assert "1014 disk-full reason=first" in caplog.text
        log.record_or_hold(Event.CLINIC_DISK_FULL, reason="second")
        with pytest.raises(StorageError, match="No space left on device"):
            log.record(Event.WORKER_STOPPED, reason="is not held")
        with pytest.raises(StorageError, match="No space left on device"):
            log.write_held()
        with pytest.raises(TypeError):
            log.record_or_hold(Event.CLINIC_DISK_FULL, patient="IP_1")
    held_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    log.record(Event.WORKER_STARTED)
    rows = list(read_log(path))[5:]
    assert [row.get("reason") for row in rows] == ["first", "second", None]
    assert str(rows[0]["time"]) <= str(rows[1]["time"]) <= held_at <= str(rows[2]["time"])
    assert verify_log(path).error is None


def test_not_more_is_held_than_memory_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "MOST_HELD", 3)
    log = AuditLog(tmp_path / "later" / "audit.jsonl")
    for number in range(5):
        log.record_or_hold(Event.WORKER_STOPPED, reason=str(number))
    log.path.parent.mkdir()
    log.write_held()
    assert [row["reason"] for row in read_log(log.path)] == ["2", "3", "4"]


def test_every_record_is_synced_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit.jsonl"
    sizes: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (sizes.append(os.fstat(descriptor).st_size), sync(descriptor)))
    filled(path, 1)
    assert sizes[0] == path.stat().st_size
    assert len(sizes) == 2, "the new file's folder too"


def test_no_log_and_no_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="there is no audit log"):
        verify_log(tmp_path / "audit.jsonl")
    with pytest.raises(StorageError, match="there is no audit log"):
        list(read_log(tmp_path / "audit.jsonl"))
    with pytest.raises(StorageError, match=r"see that its folder exists and can be written to, and try again$"):
        AuditLog(tmp_path / "no" / "audit.jsonl").record(Event.WORKER_STARTED)
    with pytest.raises(StorageError, match="cannot be read"):
        verify_log(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"image": "x"}, {"reason": "x", "patient_id": "7"}, {"reason": Path("x")}, {"reason": b"x"}, {"reason": [1]}],
)
def test_fields_that_the_event_does_not_have(tmp_path: Path, fields: dict[str, str]) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    with pytest.raises(TypeError):
        log.record(Event.REQUEST_DECLINED, **fields)
    assert not log.path.exists()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/data/derma/table.csv:3: wrong", "[left out] wrong"),
        ("image '/data/my images/ISIC_0024306.jpg' is cut", "image '[left out] [left out]' is cut"),
        ("images/Jane-Doe.JPEG is cut", "[left out] is cut"),
        ("~/data/x cannot be read", "[left out] cannot be read"),
        ("C:\\data\\x cannot be read", "[left out] cannot be read"),
        ("lesion ISIC_0024306 is there twice", "lesion [left out] is there twice"),
        (
            "https://server.example:443/v1/fleet, ca.crt and/or 3/4",
            "https://server.example:443/v1/fleet, ca.crt and/or 3/4",
        ),
        ("two\nlines\tand \x1b[31mred\u202e", "two lines and  [31mred "),
        ("x" * 400, "x" * 299 + "…"),
        ("a " + "/data/" + "x" * 4000 + ".jpg", "a…"),
    ],
)
def test_texts_are_one_line_without_paths_and_names_of_images(tmp_path: Path, text: str, kept: str) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", text)
    log.record(Event.ROUND_FINISHED, run=text, failed=[text])
    (row,) = read_log(log.path)
    assert (row["run"], row["failed"], row["who"]) == (kept, [kept], kept)


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=500))
def test_any_text_gives_one_printable_line(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("log") / "audit.jsonl"
    AuditLog(path, text).record(Event.WORKER_STOPPED, reason=text)
    (row,) = read_log(path)
    assert verify_log(path).error is None
    assert isinstance(row["reason"], str)
    assert len(row["reason"]) <= 300
    assert row["reason"].isprintable()
    assert path.read_bytes().isascii()


def test_each_record_goes_to_the_logger_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "melfed.audit")
    log = AuditLog(tmp_path / "audit.jsonl")
    log.record(Event.REQUEST_DECLINED, kind="train", round=3, reason='σ = 0.2 is "small"')
    log.record(Event.ROUND_FINISHED, answered=["a", "b"])
    log.record(Event.RUN_FAILED, reason="quorum")
    assert [record.getMessage() for record in caplog.records] == [
        '1006 request-declined kind=train round=3 reason="σ = 0.2 is \\"small\\""',
        "2006 round-finished answered=a,b",
        "2012 run-failed reason=quorum",
    ]
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "ERROR"]


def test_what_the_disk_does_not_take_is_in_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageError):
        AuditLog(tmp_path / "no" / "audit.jsonl").record(Event.CLINIC_DISK_FULL)
    assert "1014 disk-full" in caplog.text


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.mark.usefixtures("own_logging")
def test_logs_have_the_time_or_in_the_journal_their_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        configure_logging(journal)
        logging.getLogger("melfed.audit").info("one")
        logging.getLogger("melfed").warning("two\nlines")
        logging.getLogger("melfed").error("three")
        logging.getLogger("melfed").debug("nothing")
        other = io.StringIO()
        configure_logging(other)
        logging.getLogger("melfed").warning("four")
        journal.seek(0)
        assert journal.read() == "<6>melfed.audit: one\n<4>melfed: two\n<4>lines\n<3>melfed: three\n"
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING melfed: four\n", other.getvalue())


def test_a_row_reads_as_json(tmp_path: Path) -> None:
    filled(tmp_path / "audit.jsonl")
    assert all(json.loads(line)["id"] == 1006 for line in lines(tmp_path / "audit.jsonl"))
