"""Lines that another process adds: each is seen once and whole."""

from pathlib import Path

import pytest

from melfed.common.page.tail import Tail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n')
    return path


def look(tail: Tail) -> tuple[bool, list[int]]:
    return tail.began_anew(), [row["n"] for row in tail.rows()]


def test_each_line_is_seen_once_and_half_a_line_waits(file: Path) -> None:
    tail = Tail(file)
    assert look(tail) == (False, [1, 2])
    with file.open("a") as end:
        end.write('{"n": 3}\n{"n"')
        end.flush()
        assert look(tail) == (False, [3])
        end.write(": 4}\n")
        end.flush()
    assert look(tail) == (False, [4])
    assert look(tail) == (False, [])


def test_whoever_stops_early_goes_on_there(file: Path) -> None:
    tail = Tail(file)
    tail.began_anew()
    assert next(tail.rows()) == {"n": 1}
    assert look(tail) == (False, [2])


def test_a_file_that_is_replaced_or_cut_begins_anew(file: Path) -> None:
    tail = Tail(file)
    look(tail)
    other = file.with_name("other")
    other.write_text('{"n": 7}\n{"n": 8}\n{"n": 9}\n')
    other.replace(file)
    assert look(tail) == (True, [7, 8, 9])
    file.write_text('{"n": 5}\n')
    assert look(tail) == (True, [5])


@pytest.mark.parametrize(("last", "seen"), [(9, [2]), (10, [2]), (17, [2]), (18, [1, 2]), (100, [1, 2])])
def test_the_end_of_a_long_file_begins_at_a_whole_line(file: Path, last: int, seen: list[int]) -> None:
    assert look(Tail(file, last)) == (False, seen)


def test_what_is_no_object_is_left_out_and_no_file_has_no_lines(tmp_path: Path) -> None:
    path = tmp_path / "late.jsonl"
    tail = Tail(path)
    assert look(tail) == (False, [])
    path.write_bytes(b"[1]\nnonsense\n\xff\n" + b"[" * 100_000 + b'\n{"n": 1}\n')
    assert look(tail) == (False, [1])
