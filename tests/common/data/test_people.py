"""Patients and lesions of a folder: their names, and what people should know of them."""

from pathlib import Path

import pytest

from melfed.common.data.people import Namer, describe_people
from melfed.common.data.tables.rows import ReadOptions, Row
from melfed.common.data.tables.tables import TableReport, open_tables, read_lines
from tests.common.lesions import write


@pytest.fixture
def read(tmp_path: Path):
    def rows(*lines: str) -> tuple[list[tuple[str, Row]], list[TableReport]]:
        columns = "image,target,patient_id,lesion_id,dup_group,source"
        path = write(tmp_path / "t.csv", columns, *(f"{number},0,{line}" for number, line in enumerate(lines)))
        found, report = read_lines(open_tables(path)[0], ReadOptions(), strict=True)
        return [(row.image, row) for row in found], [report]

    return rows


def test_ids_are_their_sources_own_unless_they_are_shared_or_published(read) -> None:
    rows, _ = read("7,,,A", "7,,,B", "IP_0000001,,,A", "IP_0000001,,,B")
    names = [Namer(False, False, rows).names(row)[0] for _, row in rows]
    assert names == ["a:7", "b:7", "ip_0000001", "ip_0000001"]
    assert [Namer(True, False, rows).names(row)[0] for _, row in rows] == ["7", "7", "ip_0000001", "ip_0000001"]


def test_a_lesion_without_a_patient_is_its_one_patients_where_rows_are_not_kept_apart(read) -> None:
    rows, _ = read("7,L1,,A", ",L1,,A", "7,L2,,A", "8,L2,,A", ",L2,,A")
    together = Namer(False, False, rows)
    lesions = [together.names(row)[1] for _, row in rows]
    assert lesions[0] == lesions[1]  # only patient 7 has L1
    assert len({lesions[2], lesions[3], lesions[4]}) == 3  # L2 is of two
    apart = Namer(False, True)
    assert apart.names(rows[0][1])[1] != apart.names(rows[1][1])[1]
    assert apart.names(rows[1][1])[:1] == (None,)


def test_a_duplicate_joins_no_patients_where_rows_are_kept_apart(read) -> None:
    rows, _ = read("7,,d1,A", ",,d1,A")
    assert [Namer(False, False, rows).names(row)[2] for _, row in rows] == ["d1", "d1"]
    assert [Namer(False, True).names(row)[2] for _, row in rows] == [None, "d1"]


def test_what_people_should_know(read) -> None:
    rows, reports = read("7,L1,,A", "7.0,L1,,B", "8,L1,,A", "n/a,L2,,A", "0,IL_0000001,,A", "9,IL_0000001,,B")
    found = describe_people(rows, reports, shared=False)
    assert not found.shared
    assert found.over_sources == 1  # 7
    assert found.respelled == (("7", "7.0"),)
    assert found.renumbered_lesions == 1  # L1 of 7 and 8 at A
    assert found.shared_lesions == 1  # IL_0000001 of two
