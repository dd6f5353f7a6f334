"""From files to rows: one layout strictly, and leniently what can be read of all."""

from pathlib import Path

import pytest

from melfed.common.data.images.files import Files
from melfed.common.data.tables.layouts import layouts_of, opened, read_layouts, rows_by_image, with_images
from melfed.common.data.tables.matching import Matched
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.errors import DataError
from tests.common.lesions import touch, write

HAM = "image_id,lesion_id,dx"


def test_a_file_that_cannot_be_read_is_passed_over_only_leniently_and_beside_others(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.csv", "image,target", "a,0"), write(tmp_path / "b.xlsx", "no workbook")
    assert [table.name for table in opened([good, bad], strict=False)] == ["a.csv"]
    with pytest.raises(DataError, match=r"b.xlsx: cannot be read"):
        opened([good, bad], strict=True)
    with pytest.raises(DataError, match=r"b.xlsx: cannot be read"):
        opened([bad], strict=False)


def test_tables_are_put_together_by_layout(tmp_path: Path) -> None:
    write(tmp_path / "own.csv", "image,target", "a,0")
    write(tmp_path / "ham.csv", HAM, "H1,L1,mel", "H2,L2,nv")
    layouts, reports = layouts_of(opened(sorted(tmp_path.iterdir()), True), ReadOptions(), strict=True)
    assert {name: [row.image for row in rows] for name, rows in layouts.items()} == {
        "HAM10000": ["H1", "H2"],
        "melfed": ["a"],
    }
    assert [(report.table, report.layout) for report in reports] == [("ham.csv", "HAM10000"), ("own.csv", "melfed")]


def test_a_folder_without_a_table_is_asked_for_its_classes_or_told_what_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path, "benign/1.jpg", "melanoma/2.jpg")
    with pytest.raises(DataError, match=r"no table, but .*--classes"):
        read_layouts(tmp_path, Files(tmp_path, True, "inside"), ReadOptions(), strict=True)
    options = ReadOptions(classes={"benign": "0", "melanoma": "1"})
    layouts, reports, _ = read_layouts(tmp_path, Files(tmp_path, True, "inside"), options, strict=True)
    assert {name: len(rows) for name, rows in layouts.items()} == {"folders by class": 2}
    assert reports == ()


def matched(root: Path, strict: bool) -> tuple[Files, dict[str, Matched]]:
    files = Files(root, strict, "inside")
    layouts, _, _ = read_layouts(root, files, ReadOptions(), strict)
    return files, {name: Matched(files, rows, strict) for name, rows in layouts.items()}


def test_strictly_one_layout_has_images(tmp_path: Path) -> None:
    write(tmp_path / "own.csv", "image,target", "a,0")
    write(tmp_path / "ham.csv", HAM, "H1,L1,mel")
    files, found = matched(tmp_path, strict=True)
    with pytest.raises(
        DataError, match=r": 1 rows \(HAM10000\) and no image file for any of them: 'H1' and the others"
    ):
        with_images(tmp_path, files, found)
    touch(tmp_path, "a.jpg")
    files, found = matched(tmp_path, strict=True)
    assert list(with_images(tmp_path, files, found)) == ["melfed"]
    touch(tmp_path, "H1.jpg")
    files, found = matched(tmp_path, strict=True)
    with pytest.raises(
        DataError, match=r"tables of 2 layouts in one folder \(ham.csv is HAM10000; own.csv is melfed\)"
    ):
        with_images(tmp_path, files, found)


def test_leniently_an_image_has_the_rows_of_all_layouts(tmp_path: Path) -> None:
    write(tmp_path / "own.csv", "image,target,patient_id", "H1,0,P1", "H1,0,P2")
    write(tmp_path / "ham.csv", HAM, "H1,L1,nv")
    touch(tmp_path, "H1.jpg")
    _, found = matched(tmp_path, strict=False)
    rows = rows_by_image(list(found.values()), False, ReadOptions())["H1.jpg"]
    assert sorted(row.patient or "" for row in rows) == ["p1", "p2"]
