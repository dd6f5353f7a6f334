"""ISIC 2016: benign or malignant, with a header or none."""

import pytest

from melfed.common.data.records import read_table
from melfed.common.errors import DataError
from tests.common.data.readers.reading import rows, told
from tests.common.lesions import read_rows, touch, write


@pytest.mark.parametrize("header", [[], ["img_id,Label"]])
def test_isic2016_has_a_header_or_none(tmp_path, header):
    table = write(tmp_path / "gt.csv", *header, "ISIC_0000000,benign", "ISIC_0000002,malignant")
    assert told(rows(table), "target", "diagnosis", "source") == [
        ("ISIC_0000000", 0, None, "ISIC2016"),
        ("ISIC_0000002", 1, "mel", "ISIC2016"),  # all its malignant images are melanomas
    ]


def test_isic2016_test_part_and_other_labels(tmp_path):
    table = write(tmp_path / "gt.csv", "ISIC_0000003,0.0", "ISIC_0000012,1.0")
    assert [record.target for record in rows(table).values()] == [0, 1]
    table = write(tmp_path / "gt.csv", "img_id,Label", "ISIC_0000003,0.0", "ISIC_0000012,perhaps")
    with pytest.raises(DataError, match=r"gt\.csv, line 3: the label is 'perhaps'"):
        read_rows([table])


def test_isic2016_without_a_header_is_not_recognised_by_its_first_line_alone(tmp_path):
    table = write(tmp_path / "gt.csv", "ISIC_0000000,perhaps", "ISIC_0000002,malignant", "ISIC_0000003,benign")
    with pytest.raises(DataError, match=r"gt\.csv, line 1: the label is 'perhaps'"):
        read_rows([table])
    touch(tmp_path, *(f"ISIC_000000{number}.jpg" for number in (0, 2, 3)))
    found = read_table(tmp_path, strict=False)
    assert [(record.image, record.target) for record in found.records] == [
        ("ISIC_0000002.jpg", 1), ("ISIC_0000003.jpg", 0)
    ]  # fmt: skip
    write(table, "id,label", "ISIC_0000002,malignant")  # not said to be of ISIC 2016: no melanoma follows
    with pytest.raises(DataError, match="no table with known columns"):
        read_table(tmp_path, strict=False)
