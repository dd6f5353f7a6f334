"""Which records `log` shows."""

import json
from pathlib import Path

import pytest
import typer

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog, read_log
from melfed.common.errors import LedgerError
from melfed.common.terminal.audit_rows import LAST, show_rows, show_verified


@pytest.fixture
def path(tmp_path: Path) -> Path:
    log = AuditLog(tmp_path / "audit.jsonl", "worker")
    for number in range(LAST + 10):
        log.record(Event.WORKER_STOPPED, reason=f"because {number}")
    return log.path


@pytest.mark.parametrize(
    ("since", "last", "shown"), [(None, None, LAST), ("1h", None, LAST + 10), (None, 3, 3), ("1h", 4, 4)]
)
def test_the_newest_fifty_or_as_many_as_are_asked_for(
    path: Path, capsys: pytest.CaptureFixture[str], since: str | None, last: int | None, shown: int
) -> None:
    show_rows(read_log(path), since, last, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["reason"] for row in rows] == [f"because {n}" for n in range(LAST + 10 - shown, LAST + 10)]


def test_what_is_no_time_is_refused(path: Path) -> None:
    with pytest.raises(typer.BadParameter, match="write 30m"):
        show_rows(read_log(path), "yesterday", None, as_json=False)


def test_a_changed_line_and_a_missing_head_are_found(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show_verified([path], None)
    assert f"{path}: 60 records, chain whole, head " in capsys.readouterr().out
    with pytest.raises(LedgerError, match="lines were cut off"):
        show_verified([path], "a" * 64)
    path.write_bytes(path.read_bytes().replace(b"because 7", b"because 8"))
    with pytest.raises(LedgerError, match="line 8: is not what was written"):
        show_verified([path], None)
