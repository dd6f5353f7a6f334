"""What one patient's lines, or images, can do to the lines of others, where a folder is read for a private study."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.records import LesionRecord, LesionTable, read_table
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.data.tables.text_files import TextFile
from melfed.common.errors import DataError
from tests.common.lesions import touch, write

HEADER = "image,target,patient_id,site,source"
OTHERS = ("0.jpg,0,P0,back,here", '1.jpg,1,P1,"back, left",here', "2.jpg,0,P2,,here")
END_OF_LINE = "its quotes do not end; close them, and take ends of lines out of cells"


def lenient(root: Path, lines: Sequence[str], header: str = HEADER) -> LesionTable:
    write(root / "t.csv", header, *lines)
    return read_table(root, strict=False)


def of_others(table: LesionTable) -> tuple[LesionRecord, ...]:
    return tuple(record for record in table.records if record.image in ("0.jpg", "1.jpg", "2.jpg"))


@pytest.mark.parametrize(
    "lines",
    [
        ['9.jpg,1,X,"back,here'],
        ['"9.jpg,1,X,back,here'],
        ['9.jpg,1,X,back,"here', '8.jpg,1,X,back,"here'],
        ['9.jpg,1,X,"back,', '",here'],
        ['9.jpg,1,X,5" wide,"here'],
        ["9.jpg,1,X,back,here,and,more"],
        ["9.jpg,1,X,back"],
        ["", "9.jpg,\0,X\r8.jpg,1,X,,here"],
    ],
)
def test_no_line_reaches_into_another(tmp_path: Path, lines: list[str]) -> None:
    touch(tmp_path, "0.jpg", "1.jpg", "2.jpg", "9.jpg", "8.jpg")
    without = lenient(tmp_path, OTHERS)
    assert len(without.records) == 3
    for place in range(len(OTHERS) + 1):
        with_them = lenient(tmp_path, [*OTHERS[:place], *lines, *OTHERS[place:]])
        assert of_others(with_them) == without.records


def test_a_line_whose_quotes_do_not_end_is_told_of(tmp_path: Path) -> None:
    touch(tmp_path, "0.jpg", "1.jpg", "2.jpg", "9.jpg")
    table = lenient(tmp_path, ['9.jpg,1,X,"back,here', *OTHERS])
    assert [(row.image, row.where, row.reason) for row in table.left_out] == [("9.jpg", "t.csv, line 2", END_OF_LINE)]


def test_strictly_quotes_may_hold_ends_of_lines(tmp_path: Path) -> None:
    touch(tmp_path, "0.jpg", "1.jpg", "2.jpg")
    write(tmp_path / "t.csv", HEADER, '0.jpg,0,P0,"two', 'lines",here', *OTHERS[1:])
    assert len(read_table(tmp_path).records) == 3
    assert len(read_table(tmp_path, strict=False).records) == 2


WITHOUT_QUOTES = st.text(st.characters(exclude_characters='\r\n"\0', exclude_categories=["Cs"]), max_size=9)


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(WITHOUT_QUOTES, max_size=6))
def test_what_else_a_file_holds_changes_no_line(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    found = []
    for more in ([], ['"']):  # a quote anywhere has the file read in another way
        path.write_text("".join(f"{line}\n" for line in ["one,two", *lines, *more]), encoding="utf-8", newline="")
        columns, _ = TextFile.open(path, apart=True).columns([0, 1])
        found.append([list(column)[: len(lines)] for column in columns])
    assert found[0] == found[1]
    assert len(found[0][0]) == len(lines)


def test_folders_are_not_refused_for_one_image(tmp_path: Path) -> None:
    touch(tmp_path, "mel/0.jpg", "nv/1.jpg", "mel/nv/2.jpg")
    options = ReadOptions(classes={"mel": "1", "nv": "0", "bcc": "bcc"})
    with pytest.raises(DataError, match="in folders of two classes"):
        read_table(tmp_path, options=options)
    table = read_table(tmp_path, options=options, strict=False)
    assert [(record.image, record.target) for record in table.records] == [("mel/0.jpg", 1), ("nv/1.jpg", 0)]
    assert {row.image for row in table.left_out} == {"mel/nv/2.jpg"}


@pytest.mark.parametrize(
    "lines",
    [
        ["ISIC_0000001,IP_0000009,70,male,1"],
        ["ISIC_0000001,IP_0000009,70,male,1", "ISIC_0000002,IP_0000009,20,female,1"],
        ["ISIC_0000001,IP_0000009,70,male,1,and,more"],
        ["ISIC_0000001,,70,male,1"],
        ['ISIC_0000002,IP_0000009,70,"male,1'],
    ],
)
def test_what_is_added_of_one_patient_changes_no_other(tmp_path: Path, lines: list[str]) -> None:
    touch(tmp_path, "ISIC_0000001.jpg", "ISIC_0000002.jpg")
    write(tmp_path / "truth.csv", "isic_id,malignant", "ISIC_0000001,0", "ISIC_0000002,0")
    header = "isic_id,patient_id,age_approx,sex,tbp_lv_A"
    others = ("ISIC_0000001,IP_0000001,50,male,1", "ISIC_0000002,IP_0000002,60,female,1")

    def of_others(*more: str) -> list[LesionRecord]:
        write(tmp_path / "metadata.csv", header, *more)
        found = read_table(tmp_path, strict=False).records
        return [record for record in found if record.patient_id in ("ip_0000001", "ip_0000002")]

    without = of_others(*others)
    assert [record.age for record in without] == [50, 60]
    assert of_others(*lines, *others) == of_others(*others, *lines) == without
