"""PH²: a workbook of crosses, or a text file of numbers."""

from pathlib import Path

import openpyxl
import pytest

from melfed.common.errors import DataError
from tests.common.data.readers.reading import rows, told
from tests.common.lesions import read_rows, write


def ph2_workbook(path: Path, *lines: tuple) -> Path:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["PH² database"])
    for _ in range(10):
        sheet.append([None])
    sheet.append(
        ["Image Name", "Histological Diagnosis", "Common Nevus", "Atypical Nevus", "Melanoma", "Asymmetry\n(0/1/2)"]
    )
    for line in lines:
        sheet.append(line)
    book.save(path)
    return path


def test_ph2_as_a_workbook(tmp_path):
    table = ph2_workbook(
        tmp_path / "PH2_dataset.xlsx", ("IMD003", None, "X", None, None, 0), ("IMD58", None, None, None, "X", 2)
    )
    assert told(rows(table), "target", "diagnosis") == [("IMD003", 0, "nv"), ("IMD58", 1, "mel")]
    table = ph2_workbook(tmp_path / "PH2_dataset.xlsx", ("IMD003", None, "X", None, "X", 0))
    with pytest.raises(DataError, match=r"PH2_dataset\.xlsx, row 13: several of the columns Common Nevus, Atypical"):
        read_rows([table])


def test_ph2_as_text_between_bars(tmp_path):
    table = write(
        tmp_path / "PH2_dataset.txt",
        "||   Name   ||   Histological Diagnosis   || Clinical Diagnosis || Asymmetry ||",
        "|| IMD003 ||                        ||                  0 ||     0 ||",
        "|| IMD058 ||                        ||                  2 ||     2 ||",
        "Legend: 0 - Common Nevus, 1 - Atypical Nevus, 2 - Melanoma",
    )
    assert told(rows(table), "target", "diagnosis") == [("IMD003", 0, "nv"), ("IMD058", 1, "mel")]
    both = ph2_workbook(tmp_path / "PH2_dataset.xlsx", ("IMD003", None, "X", None, None, 0))
    assert rows(table, both).keys() == {"IMD003", "IMD058"}
