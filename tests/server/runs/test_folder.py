"""The run folder: made once, private, and whole again after a crash."""

import errno
import json
import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from melfed.common.errors import RunError, StorageError
from melfed.common.study.protocol import StudyProtocol
from melfed.server.runs.folder import RunFolder
from tests.server.fake_run import FakeRun
from tests.server.fakes import scores_of

STUDY = StudyProtocol(name="here", seed=7)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "one", STUDY)


def test_each_run_has_an_identity_of_its_own_that_stays(folder: RunFolder, tmp_path: Path) -> None:
    assert RunFolder.open(folder.path).identity == folder.identity
    assert re.fullmatch("[0-9a-f]{16}", folder.identity)
    other = RunFolder.create(tmp_path / "other", STUDY)
    assert other.identity != folder.identity
    assert folder.ledgers == folder.path / "ledgers"
    assert not folder.ledgers.exists(), "a run without privacy has none"


@pytest.mark.parametrize("damage", [None, b"", b"0123\n", b"\xff\xfe", b"0123456789abcdef more"])
def test_a_run_without_its_identity_is_told_in_one_line(folder: RunFolder, damage: bytes | None) -> None:
    path = folder.path / "run-id"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(RunError, match=r"run-id: .*; the run folder is damaged, start a new run") as caught:
        folder.identity  # noqa: B018
    assert "\n" not in str(caught.value)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def metrics(folder: RunFolder) -> Path:
    return folder.path / "metrics.jsonl"


def event(kind: str, number: int) -> dict[str, object]:
    return {"event": kind, "round": number}


def test_a_new_folder_holds_the_study(folder: RunFolder) -> None:
    again = RunFolder.open(folder.path)
    assert again.study().canonical() == STUDY.canonical()
    assert again.study().digest == STUDY.digest
    assert folder.checkpoints.is_dir()
    assert not folder.model.exists()
    assert not folder.report.exists()
    assert list(folder.events()) == []


def test_only_the_owner_can_look_in(folder: RunFolder) -> None:
    mask = os.umask(0)
    try:
        other = RunFolder.create(folder.path.parent / "two", STUDY)
        other.append(event("round", 1))
        FakeRun().write(folder.path.parent / "three")
    finally:
        os.umask(mask)
    assert mode(other.path) == mode(other.checkpoints) == 0o700
    assert mode(metrics(other)) == mode(other.path / "study.yaml") == mode(other.path / "run-id") == 0o600
    other.forget_after(0)
    assert mode(metrics(other)) == 0o600
    assert mode(folder.path.parent / "three" / "summary.json") == 0o600


@pytest.mark.parametrize("what", ["folder", "file", "dangling link"])
def test_what_stands_there_is_not_touched(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run"
    if what == "folder":
        path.mkdir()
    elif what == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"run: exists; choose another --out, or go on with --resume") as caught:
        RunFolder.create(path, STUDY)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file" / "run", tmp_path / "file" / "deep" / "run"):
        with pytest.raises(StorageError, match=r"run: cannot be made: (File exists|Not a directory)"):
            RunFolder.create(path, STUDY)


def test_a_full_disk_leaves_no_half_made_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            RunFolder.create(tmp_path / "run", STUDY)
    assert not (tmp_path / "run").exists()
    RunFolder.create(tmp_path / "run", STUDY)


def test_what_is_no_run_folder_is_not_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunError, match="not a run folder"):
            RunFolder.open(path)


def test_events_come_back_in_order(folder: RunFolder) -> None:
    events = [event("round", 1), {**event("validation", 1), "text": "ä\u2028\n", "list": [1, 2.5]}, event("round", 2)]
    for item in events:
        folder.append(item)
    assert list(folder.events()) == events
    assert len(metrics(folder).read_text().splitlines()) == 3


def test_a_name_that_nobody_chose_is_another_one_where_it_is_taken(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        made = list(executor.map(lambda _: RunFolder.create(tmp_path / "a-120000", STUDY, fresh=True), range(8)))
    numbers = {folder.path.name.removeprefix("a-120000") for folder in made}
    assert numbers == {"", *(f"-{number}" for number in range(2, 9))}
    assert len({folder.identity for folder in made}) == 8


@pytest.mark.parametrize("cut", ['{"event": "ro', "{", '{"event": "é'.encode()[:-1], b"\0" * 40])
def test_a_last_line_cut_by_a_crash_is_left_out(folder: RunFolder, cut: str | bytes) -> None:
    folder.append(event("round", 1))
    with metrics(folder).open("ab") as file:
        file.write(cut.encode() if isinstance(cut, str) else cut)
    assert list(folder.events()) == [event("round", 1)]
    folder.forget_after(1)
    folder.append(event("round", 2))
    assert list(folder.events()) == [event("round", 1), event("round", 2)]


@pytest.mark.parametrize("damage", [b'{"event": "ro', b"\xff\xfe"])
def test_damage_before_the_end_is_an_error(folder: RunFolder, damage: bytes) -> None:
    folder.append(event("round", 1))
    line = metrics(folder).read_bytes()
    metrics(folder).write_bytes(line + damage + b"\n" + line)
    with pytest.raises(RunError, match=r"metrics.jsonl:2: not JSON") as caught:
        list(folder.events())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "line",
    [
        "3",
        "[]",
        "{}",
        '{"event": "round"}',
        '{"event": "round", "round": "1"}',
        '{"event": "round", "round": true}',
        '{"event": 1, "round": 1}',
    ],
)
def test_a_line_that_is_no_event_is_an_error(folder: RunFolder, line: str) -> None:
    folder.append(event("round", 1))
    with metrics(folder).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RunError, match=r"metrics.jsonl:2: not an event of a run; the run folder is damaged$"):
        list(folder.events())


def test_a_full_disk_while_appending(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.append(event("round", 1))

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match=r"metrics.jsonl: cannot be written: No space left on device"):
            folder.append(event("round", 2))


def test_numbers_that_json_lacks_are_not_written(folder: RunFolder) -> None:
    with pytest.raises(ValueError, match="JSON"):
        folder.append({**event("round", 1), "train_loss": float("nan")})


@pytest.mark.parametrize("last", range(5))
def test_forgetting_keeps_what_the_checkpoint_has_seen(folder: RunFolder, last: int) -> None:
    for number in range(1, 4):
        folder.append(event("round", number))
        folder.append(event("validation", number))
    folder.append({**event("test", 0), "clinic": "a"})
    folder.forget_after(last)
    kept = [(item["event"], item["round"]) for item in folder.events()]
    # The next round's replies bring the validation of the checkpoint's model once more.
    assert [number for kind, number in kept if kind == "round"] == [n for n in (1, 2, 3) if n <= last]
    assert [number for kind, number in kept if kind == "validation"] == [n for n in (1, 2, 3) if n < last]
    assert len(kept) == min(last, 3) + min(max(last - 1, 0), 3), "and nothing of the test"


def test_forgetting_in_a_new_folder(folder: RunFolder) -> None:
    folder.forget_after(0)
    assert list(folder.events()) == []


def test_the_summary_comes_back(tmp_path: Path) -> None:
    folder = FakeRun().write(tmp_path / "run")
    summary = folder.summary()
    assert summary.study.digest == folder.study().digest
    folder.write_summary(summary)
    assert folder.summary() == summary
    assert json.loads((folder.path / "summary.json").read_text())["privacy"] is None


def test_an_unfinished_run_has_no_summary(folder: RunFolder) -> None:
    with pytest.raises(RunError, match="the run has not finished; go on with --resume"):
        folder.summary()


@pytest.mark.parametrize("content", [b"{", b"{}", b"\xff", b'{"melfed": "0.1.0", "more": 1}'])
def test_a_damaged_summary_is_told_in_one_line(folder: RunFolder, content: bytes) -> None:
    (folder.path / "summary.json").write_bytes(content)
    with pytest.raises(RunError, match=r"summary\.json: ") as caught:
        folder.summary()
    assert "\n" not in str(caught.value)


def test_an_outcome_becomes_one_event_a_clinic(folder: RunFolder) -> None:
    from melfed.server.runs.outcome import Outcome

    test = {name: scores_of(name, "test", 12) for name in ("a", "b")}
    folder.write_outcome(Outcome({}, {}, test))
    assert [(e["event"], e["clinic"], e["histogram"]) for e in folder.events()] == [
        ("test", name, histogram.to_lists()) for name, histogram in test.items()
    ]
