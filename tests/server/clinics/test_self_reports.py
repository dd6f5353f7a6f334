"""What clinics last said of themselves, and how much of it is kept."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.errors import StorageError
from melfed.server.clinics import self_reports
from melfed.server.clinics.self_reports import LONGEST, MOST, Said, minutes, note_said, read_said, word, words


def test_each_clinics_last_word_is_on_file_with_its_time(tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    assert read_said(path) == {}
    note_said(path, "b", Said(version="1.2", approved=("f" * 64,), budget=2.5))
    note_said(path, "a", Said(approved=()))
    note_said(path, "a", Said(version="1.3"))
    found = read_said(path)
    assert list(found) == ["a", "b"]
    assert (found["b"].version, found["b"].approved, found["b"].budget) == ("1.2", ("f" * 64,), 2.5)
    assert (found["a"].version, found["a"].approved) == ("1.3", None)
    told = datetime.fromisoformat(found["a"].at)
    assert abs((datetime.now(UTC) - told).total_seconds()) < 60


def test_whoever_declines_keeps_what_was_said_of_approvals_and_budget(tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    note_said(path, "a", Said(version="1.2", approved=("f" * 64,), budget=2.5))
    note_said(path, "a", Said(version="1.3", reason="spent", declined="e" * 64))
    found = read_said(path)["a"]
    assert (found.version, found.approved, found.budget, found.reason) == ("1.3", ("f" * 64,), 2.5, "spent")


@pytest.mark.parametrize("content", [b"", b"{", b'{"clinics": {"a": {"version": 3}}}', b"\xff"])
def test_a_damaged_file_is_as_good_as_none_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "said.json"
    path.write_bytes(content)
    assert read_said(path) == {}
    note_said(path, "a", Said(version="1"))
    assert list(read_said(path)) == ["a"]


def test_on_a_full_disk_it_is_lost_and_nobody_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise StorageError("disk full")

    note_said(tmp_path / "said.json", "a", Said(version="1"))
    monkeypatch.setattr(self_reports, "write_text", full)
    note_said(tmp_path / "said.json", "a", Said(version="2"))
    assert read_said(tmp_path / "said.json")["a"].version == "1"


@given(st.text())
def test_a_word_from_outside_is_short_and_printable(text: str) -> None:
    found = word(text)
    assert found.isprintable()
    assert len(found) <= LONGEST
    assert text.startswith(found) or not text.isprintable()


def test_words_are_as_many_as_are_kept_and_none_where_there_is_no_list() -> None:
    assert words(["a\n", 3]) == ("a", "3")
    assert words(None) == words(7) == ()
    assert len(words(["x"] * (MOST + 5))) == MOST


@pytest.mark.parametrize("value", [None, "8", 8.0, True, 0, -8, 3, 1 << 15, 10**30, [8], float("nan")])
def test_what_is_no_power_of_two_of_minutes_is_not_kept(value: object) -> None:
    assert minutes(value) is None


def test_a_power_of_two_of_minutes_is() -> None:
    assert [minutes(1 << power) for power in range(15)] == [1 << power for power in range(15)]
