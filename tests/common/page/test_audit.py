"""Records of audit logs as a page shows them."""

import json
from pathlib import Path

import pytest

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.page.audit import LastRecords, finite, shown


def test_records_of_several_logs_stand_newest_first_with_what_they_mean(tmp_path: Path) -> None:
    one, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    records = LastRecords({one: "worker", other: "messenger"}, most=2)
    assert records.look() == []
    AuditLog(one, "w").record(Event.WORKER_STARTED, version="1")
    other.write_text(json.dumps({"time": "1999", "id": 1016, "reason": "no route"}) + "\n")
    rows = records.look()
    assert [(row["log"], row["id"], row["severity"]) for row in rows] == [
        ("worker", 1001, "info"),
        ("messenger", 1016, "warning"),
    ]
    assert (rows[0]["fields"], rows[0]["meaning"]) == ({"version": "1"}, Event.WORKER_STARTED.value.meaning)
    for number in range(3):
        AuditLog(one, "w").record(Event.WORKER_STOPPED, reason=str(number))
    assert [row["fields"]["reason"] for row in records.look()] == ["2", "1", "no route"]
    other.write_text("")
    assert len(records.look()) == 2


def test_records_of_one_millisecond_stand_newest_first_too(tmp_path: Path) -> None:
    log = tmp_path / "a.jsonl"
    rows = [{"time": "2030-01-01T00:00:00.001", "id": 1002, "reason": reason} for reason in "abc"]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row["fields"]["reason"] for row in LastRecords({log: ""}).look()] == ["c", "b", "a"]


@pytest.mark.parametrize("row", [{}, {"id": True}, {"id": [], "time": {}}, {"id": 9, "x": float("nan")}])
def test_what_melfed_did_not_write_is_said_to_be_so_and_is_json(row: dict[str, object]) -> None:
    found = shown(row)
    assert (found["id"], found["name"], found["severity"]) == (0, "not written by melfed", "error")
    json.dumps(found, allow_nan=False)


def test_values_are_one_short_line_of_words() -> None:
    found = shown({"id": 2006, "answered": ["a", "b"], "reason": "\x1b[2J\u202e\n" + "x" * 10_000})
    assert found["fields"]["answered"] == "a, b"
    reason = found["fields"]["reason"]
    assert (len(reason), reason.isprintable(), reason[-1]) == (300, True, "…")


def test_a_number_without_end_is_none() -> None:
    assert [finite(value) for value in (1.5, None, float("inf"), float("nan"))] == [1.5, None, None, None]
