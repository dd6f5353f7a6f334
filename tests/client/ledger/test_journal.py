"""The chained file: whatever is changed is found, whatever a crash leaves is mended, and the clock is watched."""

import hashlib
import json
import multiprocessing
import os
import re
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from melfed.client.ledger.disk import Disk
from melfed.client.ledger.journal import LONGEST_ROW, Journal, head_of
from melfed.client.privacy import accounting
from melfed.common.errors import LedgerError, StorageError
from melfed.common.hash_chain import GENESIS, Content
from tests.client.ledger.fake_disk import FakeDisk, Node
from tests.client.ledger.ledgers import cheap_epsilon

PATH = Path("ledger.jsonl")
START = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


class Clock:
    """Goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


def take(_: Content) -> None:
    """Any row will do."""


def fill(path: Path, disk: Disk, rows: int, clock: Clock | None = None) -> Journal:
    journal = Journal(path, disk, clock or Clock())
    journal.hold(0, take)
    for number in range(rows):
        journal.write(journal.compose({"number": number, "text": "ε" * number}))
    journal.let_go()
    return journal


def files(rows: int = 4) -> tuple[bytes, bytes]:
    """Both files of a journal."""
    disk = FakeDisk()
    fill(PATH, disk, rows)
    return disk.names[PATH].content, disk.names[head_of(PATH)].content


def reread(data: bytes | None, head: bytes | None) -> Journal:
    """Read a journal of these two files."""
    disk = FakeDisk()
    for path, content in ((PATH, data), (head_of(PATH), head)):
        if content is not None:
            disk.names[path] = Node()
            disk.names[path].durable = content
    journal = Journal(PATH, disk, Clock())
    journal.read(take)
    return journal


DATA, HEAD = files()
LINES = DATA.splitlines(keepends=True)


def test_rows_are_what_the_format_says() -> None:
    previous, ends = GENESIS, []
    for number, line in enumerate(LINES, 1):
        row = json.loads(line)
        assert list(row) == ["sequence", "time", "previous", "number", "text", "hash"]
        assert (row["sequence"], row["previous"]) == (number, previous)
        assert row["hash"] == hashlib.sha256(line[: line.index(b',"hash":')]).hexdigest()
        previous = row["hash"]
        ends.append(row["time"])
    assert ends == sorted(set(ends))
    assert json.loads(HEAD) == {"rows": len(LINES), "head": previous}
    chain = reread(DATA, HEAD).chain
    assert (chain.rows, chain.head, chain.size, chain.torn, chain.ahead) == (len(LINES), previous, len(DATA), 0, 0)


def test_nothing_there_is_an_empty_journal_and_so_is_an_empty_file() -> None:
    assert reread(None, None).chain.head == GENESIS
    assert reread(b"", None).chain.rows == 0


@settings(deadline=None, max_examples=400)
@given(st.integers(0, len(DATA) + len(HEAD) - 1), st.integers(1, 255))
def test_any_changed_byte_is_found(position: int, change: int) -> None:
    both = bytearray(DATA + HEAD)
    both[position] ^= change
    with pytest.raises(LedgerError) as caught:
        reread(bytes(both[: len(DATA)]), bytes(both[len(DATA) :]))
    if position < len(DATA):
        line = DATA[:position].count(b"\n") + 1
        assert f": line {line}: " in str(caught.value), "the first wrong line is named"


def test_every_byte_matters_and_none_may_be_added_or_missing() -> None:
    for position in range(len(DATA)):
        for edited in (
            DATA[:position] + DATA[position + 1 :],
            DATA[:position] + b" " + DATA[position:],
            DATA[:position],
        ):
            with pytest.raises(LedgerError):
                reread(edited, HEAD)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, len(LINES) - 1), max_size=len(LINES) + 2))
def test_any_other_choice_or_order_of_rows_is_found(chosen: list[int]) -> None:
    """Rows that are dropped (at the end as well), swapped, doubled."""
    assume(chosen != list(range(len(LINES))))
    with pytest.raises(LedgerError) as caught:
        reread(b"".join(LINES[row] for row in chosen), HEAD)
    first_wrong = next((n for n, row in enumerate(chosen) if row != n), len(chosen)) + 1
    assert f": line {first_wrong}: " in str(caught.value)


def test_a_journal_of_the_same_rows_at_another_time_does_not_fit_the_head() -> None:
    disk, clock = FakeDisk(), Clock()
    clock.now += timedelta(hours=1)
    fill(PATH, disk, len(LINES), clock)
    with pytest.raises(LedgerError, match=f"line {len(LINES)}: is not the last row that"):
        reread(disk.names[PATH].content, HEAD)


def test_one_of_the_two_files_alone_is_damage() -> None:
    with pytest.raises(LedgerError, match=r"ledger\.jsonl\.head is missing"):
        reread(DATA, None)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl: is missing"):
        reread(None, HEAD)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl: is missing"):
        reread(None, files(0)[1])
    with pytest.raises(LedgerError, match="the last 4 of 4 rows are cut off"):
        reread(b"", HEAD)
    with pytest.raises(LedgerError, match=r"ledger\.jsonl\.head: is not what a ledger writes there"):
        reread(b"", HEAD.replace(b'"rows":4', b'"rows":0'))


def forged(*bodies: bytes) -> tuple[bytes, bytes]:
    """Lines with right hashes around any bodies, and their head."""
    data, digest = b"", ""
    for body in bodies:
        digest = hashlib.sha256(body).hexdigest()
        data += body + b',"hash":"' + digest.encode() + b'"}\n'
    return data, f'{{"rows":{len(bodies)},"head":"{digest}"}}\n'.encode()


GOOD = LINES[0][: LINES[0].index(b',"hash":')]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (GOOD + b',"number":1', "'number' stands there twice"),
        (GOOD + b',"x":NaN', "NaN is no number"),
        (GOOD + b',"x":-Infinity', "is no number"),
        (GOOD + b',"x":"\xff"', "not a JSON object"),
        (b'["sequence"', "not a JSON object"),
        (GOOD + b',"x":' + b"[" * 3000 + b"]" * 500, "line 1"),
        (GOOD + b',"x":' + b" " * LONGEST_ROW + b"1", "a row has 4096 at most"),
        (GOOD.replace(b'"sequence":1', b'"sequence":true'), "is row True"),
        (GOOD.replace(b'"sequence":1', b'"sequence":2'), "is row 2: rows were dropped"),
        (GOOD.replace(b'"previous":"0', b'"previous":"1'), "does not follow"),
        (GOOD.replace(b'"time":"2025', b'"time":"2O25'), "not a time in UTC"),
        (GOOD.replace(b"+00:00", b"+01:00"), "not a time in UTC"),
        (GOOD.replace(b'"2025-03-01T12:00:01.000000+00:00"', b"5"), "not a time in UTC"),
        (b"{}", "not a JSON object"),
        (b"", "not a JSON object"),
    ],
)
def test_a_forged_row_is_a_message_with_its_line(body: bytes, words: str) -> None:
    with pytest.raises(LedgerError, match="line 1: ") as caught:
        reread(*forged(body))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200), st.one_of(st.none(), st.just(HEAD), st.binary(max_size=100)))
def test_garbage_is_never_a_traceback(data: bytes, head: bytes | None) -> None:
    assume(data or head is not None)
    with pytest.raises(LedgerError):
        reread(data, head)


def test_a_row_beyond_the_head_is_kept_and_a_torn_one_removed() -> None:
    behind = files(3)[1]
    chain = reread(DATA, behind).chain
    assert (chain.rows, chain.ahead, chain.torn) == (4, 1, 0)
    whole = len(DATA) - len(LINES[3])
    for end in (*range(whole + 1, len(DATA), 7), len(DATA) - 1):
        chain = reread(DATA[:end], behind).chain
        assert (chain.rows, chain.size, chain.torn) == (3, whole, end - whole)
    page = DATA[:whole] + bytes(50) + LINES[3][50:]
    assert reread(page, behind).chain.torn == len(LINES[3])


def test_only_one_row_may_be_beyond_the_head() -> None:
    two = files(2)[1]
    with pytest.raises(LedgerError, match=r"line 4: .*knows of 2 rows only"):
        reread(DATA, two)
    with pytest.raises(LedgerError, match=r"line 4: .*knows of 2 rows only"):
        reread(DATA[:-5], two)
    with pytest.raises(LedgerError, match="line 4: its content"):
        reread(b"".join(LINES[:3]) + LINES[3].replace(b"number", b"Number"), files(3)[1])


def test_a_torn_row_is_removed_before_the_next_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, Disk(), 2)
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(b'{"sequence":3,"ti')
    assert fill(path, Disk(), 1).chain.rows == 3
    assert path.read_bytes().startswith(whole)
    journal = Journal(path, Disk(), Clock())
    journal.read(take)
    assert (journal.chain.rows, journal.chain.torn) == (3, 0)


def test_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "deep" / "er" / "a.jsonl"
        Disk().make_folder(path.parent)
        fill(path, Disk(), 1)
    finally:
        os.umask(before)
    for file in (path, head_of(path)):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {file.name for file in path.parent.iterdir()} == {"a.jsonl", "a.jsonl.head"}


def test_a_small_step_back_of_the_clock_is_borne_and_a_large_one_refused() -> None:
    disk, clock = FakeDisk(), Clock()
    journal = fill(PATH, disk, 1, clock)
    last = journal.chain.time
    assert last is not None
    clock.now -= timedelta(hours=23)
    journal.hold(0, take)
    assert journal.compose({})["time"] == last.isoformat(timespec="microseconds")
    journal.write(journal.compose({}))
    clock.now -= timedelta(hours=2)
    with pytest.raises(LedgerError, match="clock has gone backwards: it says 2025-02-28 11:00 UTC, but the last row"):
        journal.compose({})
    clock.now = START + timedelta(hours=1)
    journal.write(journal.compose({}))
    assert journal.chain.time == START + timedelta(hours=1, seconds=1)


def test_rows_whose_times_go_back_are_found() -> None:
    first = GOOD
    digest = hashlib.sha256(first).hexdigest().encode()
    second = b'{"sequence":2,"time":"2025-03-01T12:00:00.999999+00:00","previous":"' + digest + b'"'
    with pytest.raises(LedgerError, match="line 2: is earlier than the row before it"):
        reread(*forged(first, second))


def test_whoever_else_writes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, Disk(), 1)
    journal = Journal(path, Disk(), Clock())
    journal.hold(0, take)
    with path.open("ab") as file:
        file.write(LINES[1])
    with pytest.raises(LedgerError, match="was written to by something else"):
        journal.write(journal.compose({}))
    assert not journal.held


def hold_and_wait(path: Path, ready: "multiprocessing.synchronize.Event", seconds: float) -> None:
    journal = Journal(path, Disk(), lambda: datetime.now(UTC))
    journal.hold(5, take)
    ready.set()
    time.sleep(seconds)


def test_one_process_holds_it_at_a_time_and_gives_it_back_by_dying(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    fill(path, Disk(), 1)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=hold_and_wait, args=(path, ready, 60))
    other.start()
    assert ready.wait(30)
    journal = Journal(path, Disk(), Clock())
    journal.read(take)
    with pytest.raises(LedgerError, match=r"process \d+ \(.+\) has been spending from this ledger for 0\.1 s"):
        journal.hold(0.1, take)
    assert not journal.held
    other.kill()
    other.join()
    journal.hold(5, take)
    assert journal.held


def test_a_dropped_journal_and_a_dropped_copy_in_a_child(tmp_path: Path) -> None:
    """What is collected gives its lock back; a forked child that drops its copy does not."""
    path = tmp_path / "a.jsonl"
    fill(path, Disk(), 1)
    journal, second = Journal(path, Disk(), Clock()), Journal(path, Disk(), Clock())
    journal.hold(0, take)
    child = os.fork()
    if child == 0:
        del journal
        os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(LedgerError, match="has been spending"):
        second.hold(0, take)
    del journal
    second.hold(0, take)
    assert second.held


def test_what_cannot_be_written_or_read_is_one_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "nowhere" / "a.jsonl", Disk(), Clock())
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        journal.hold(0, take)
    folder = Journal(tmp_path, Disk(), Clock())
    with pytest.raises(LedgerError, match="cannot be read: Is a directory"):
        folder.read(take)


def test_a_reader_is_not_misled_by_a_writer_at_work() -> None:
    """Between reading the two files a writer may have appended several rows."""
    disk, clock = FakeDisk(), Clock()
    writer = fill(PATH, disk, 1, clock)
    reader = Journal(PATH, disk, clock)
    plain, calls = disk.read, []

    def read(path: Path) -> bytes | None:
        content = plain(path)
        calls.append(path)
        if len(calls) in (1, 2):
            writer.hold(0, take)
            writer.write(writer.compose({}))
            writer.write(writer.compose({}))
            writer.let_go()
        return content

    disk.read = read  # type: ignore[method-assign]
    reader.read(take)
    assert reader.chain.rows >= 3
    assert (reader.chain.torn, reader.chain.ahead) == (0, 0)


class Reader:
    """Keeps the rows that a journal has given it, as a ledger does."""

    def __init__(self, disk: FakeDisk) -> None:
        self.journal, self.rows, self.given = Journal(PATH, disk, Clock()), [], 0

    def restart(self) -> None:
        self.rows = []

    def take(self, row: Content) -> None:
        self.rows.append(row)
        self.given += 1

    def read(self) -> list[Content]:
        self.given = 0
        self.journal.read(self.take, self.restart)
        return self.rows


def test_what_was_read_is_given_no_second_time() -> None:
    disk, clock = FakeDisk(), Clock()
    fill(PATH, disk, 3, clock)
    reader = Reader(disk)
    assert (len(reader.read()), reader.given) == (3, 3)
    assert (len(reader.read()), reader.given) == (3, 0)
    fill(PATH, disk, 2, clock)
    assert (len(reader.read()), reader.given) == (5, 2)
    reader.journal.hold(0, reader.take, reader.restart)
    reader.journal.write(row := reader.journal.compose({"own": 1}))
    reader.take(row)
    reader.journal.let_go()
    assert (len(reader.read()), reader.given) == (6, 0)
    assert [row["sequence"] for row in reader.rows] == [1, 2, 3, 4, 5, 6]


def put(disk: FakeDisk, data: bytes, head: bytes) -> None:
    for path, content in ((PATH, data), (head_of(PATH), head)):
        disk.names[path] = Node()
        disk.names[path].durable = content


def test_who_has_read_before_finds_all_that_who_reads_anew_finds() -> None:
    """Each byte changed, each end cut off, an older state brought back: both say the same, word for word."""
    states = [(DATA[:n] + bytes([DATA[n] ^ 1]) + DATA[n + 1 :], HEAD) for n in range(0, len(DATA), 3)]
    states += [(DATA[:n], HEAD) for n in range(0, len(DATA), 50)]
    states += [(DATA + b"{", HEAD), (DATA + LINES[0], HEAD), *(files(rows) for rows in (0, 1, 3, 5, 6))]
    states += [(DATA, files(rows)[1]) for rows in (0, 2, 3)]
    outcomes = set()
    for data, head in states:
        disk = FakeDisk()
        put(disk, DATA, HEAD)
        reader = Reader(disk)
        reader.read()
        put(disk, data, head)
        try:
            expected = reread(data, head).chain
        except LedgerError as error:
            for _ in range(2):
                with pytest.raises(LedgerError, match=f"^{re.escape(str(error))}$"):
                    reader.read()
            put(disk, DATA, HEAD)
            assert len(reader.read()) == len(LINES), "what was damaged is read as a whole again"
            outcomes.add("damage")
        else:
            reader.read()
            assert reader.journal.chain == expected
            assert len(reader.rows) == expected.rows
            outcomes.add("whole")
    assert outcomes == {"damage", "whole"}


def test_after_a_write_that_failed_nothing_is_believed() -> None:
    disk = FakeDisk()
    fill(PATH, disk, 2)
    reader = Reader(disk)
    reader.journal.hold(0, reader.take, reader.restart)
    row = reader.journal.compose({"own": 1})
    reader.take(row)
    disk.fuse, disk.fault = 0, "error"
    with pytest.raises(StorageError):
        reader.journal.write(row)
    disk.fuse = None
    assert len(reader.read()) == reader.journal.chain.rows == reader.given
