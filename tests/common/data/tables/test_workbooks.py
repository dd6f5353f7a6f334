import datetime
import zipfile

import openpyxl
import polars as pl
import pytest

from melfed.common.data.records import read_table
from melfed.common.errors import DataError
from tests.common.lesions import one_line, read_rows, touch, write


def workbook(path, *sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, lines in enumerate(sheets):
        sheet = book.create_sheet(f"Blatt {number + 1}")
        for line in lines:
            sheet.append(line)
    book.save(path)
    return path


def test_a_workbook_of_a_clinic(tmp_path):
    lines = [
        ["Export vom 3. Mai"],
        [],
        ["Bild", "Diagnose", "Patienten-ID", "Alter", "Geschlecht"],
        ["a.jpg", "malignes Melanom", 12, 45.5, "w"],
        ["b.jpg", "Nävus", 12.0, datetime.datetime(2020, 5, 1), "männlich"],
    ]
    records = read_rows([workbook(tmp_path / "t.xlsx", lines)])[1]
    assert [(r.image, r.target, r.patient_id.partition(":")[2], r.age, r.sex) for r in records] == [
        ("a.jpg", 1, "12", 45.5, "female"), ("b.jpg", 0, "12", None, "male")
    ]  # fmt: skip


def test_places_are_those_of_the_spreadsheet_and_sheets_have_names(tmp_path):
    good = [["image", "target"], ["a", 0]]
    bad = [["image", "target"], ["b", 1], ["c", 7]]
    with pytest.raises(DataError, match=r"t.xlsx \(Blatt 2\), row 3: target is '7'") as error:
        read_rows([workbook(tmp_path / "t.xlsx", good, bad)])
    one_line(error)


def test_a_parquet_file(tmp_path):
    path = tmp_path / "t.parquet"
    frame = {"image": ["a", "b"], "target": [0, 1], "patient_id": [1.0, None], "pixels": [[1], [2]]}
    pl.DataFrame(frame).write_parquet(path)
    records = read_rows([path])[1]
    assert [(r.image, r.target, r.patient_id is None) for r in records] == [("a", 0, False), ("b", 1, True)]
    pl.DataFrame({"image": ["a"], "target": [3]}).write_parquet(path)
    with pytest.raises(DataError, match=r"t.parquet, row 1: target is '3'"):
        read_rows([path])


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"image,target\na,0\n"])
def test_files_that_are_not_what_they_are_called(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{name}: cannot be read as .*save it anew") as error:
        read_rows([tmp_path / name])
    one_line(error)


def test_tables_that_are_there_and_not_read_are_named(tmp_path):
    write(tmp_path / "labels.xls", "old")
    touch(tmp_path, "a.jpg")
    with pytest.raises(DataError, match=r"labels.xls is not read: save it as CSV UTF-8 or .xlsx"):
        read_table(tmp_path)


def test_a_workbook_that_is_damaged_inside_is_an_error_of_one_line(tmp_path):
    """Its rows are read one by one, long after it was opened."""
    whole = workbook(tmp_path / "whole.xlsx", [["image", "diagnosis"], ["a.jpg", "mel"]])
    (tmp_path / "data").mkdir()
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(tmp_path / "data" / "table.xlsx", "w") as target:
        for name in source.namelist():
            content = source.read(name)
            damaged = content.replace(b"<row", b"<row\x00<", 1) if name.endswith("sheet1.xml") else content
            target.writestr(name, damaged)
    touch(tmp_path / "data", "a.jpg")
    with pytest.raises(DataError, match="cannot be read as an Excel workbook") as caught:
        read_table(tmp_path / "data")
    one_line(caught)
