"""ISIC 2017: ground truths and metadata are joined."""

from collections import Counter

import pytest

from melfed.common.data.records import group_kind
from melfed.common.errors import DataError
from tests.common.data.readers.reading import plain_rows, rows, told
from tests.common.lesions import read_rows, write


def test_isic2017_joins_ground_truths_and_metadata(shared):
    tables = shared / "data/tables"
    layout, records = read_rows(sorted(tables.glob("ISIC-2017_*.csv")))
    train = plain_rows(tables / "ISIC-2017_Training_Part3_GroundTruth.csv")
    validation = plain_rows(tables / "ISIC-2017_Validation_Classes.csv")
    assert layout == "ISIC 2017"
    assert len(records) == len(train) + len(validation) == 2150
    assert sum(r.target for r in records) == sum(float(r["melanoma"]) for r in train + validation) == 404
    # only the training table tells seborrheic keratoses from nevi
    assert Counter(r.diagnosis for r in records) == {"mel": 404, "nv": 1372, "bkl": 254, None: 120}
    metadata = plain_rows(*sorted(tables.glob("ISIC-2017_*_metadata.csv")))
    ages = {r["image_id"]: float(r["age_approximate"]) for r in metadata if r["age_approximate"] != "unknown"}
    assert {r.image: r.age for r in records if r.age is not None} == ages
    assert Counter(r.sex for r in records) == {"male": 990, "female": 930, None: 230}
    assert {r.source for r in records} == {"ISIC2017"}
    assert group_kind(records) == "image"


def test_what_is_neither_of_two_classes_is_a_naevus_only_where_both_are_told(tmp_path):
    both = write(tmp_path / "gt.csv", "image_id,melanoma,seborrheic_keratosis", "A,1,0", "B,0,1", "C,0.0,0.0")
    assert told(rows(both), "target", "diagnosis") == [("A", 1, "mel"), ("B", 0, "bkl"), ("C", 0, "nv")]
    alone = write(tmp_path / "gt.csv", "image_id,melanoma", "A,1", "B,0")
    ages = write(tmp_path / "m.csv", "image_id,age_approximate,sex", "A,55,female", "B,unknown,unknown")
    assert told(rows(alone, ages), "target", "diagnosis", "age", "sex") == [
        ("A", 1, "mel", 55, "female"), ("B", 0, None, None, None)
    ]  # fmt: skip


def test_both_classes_at_once_are_refused(tmp_path):
    table = write(tmp_path / "gt.csv", "image_id,melanoma,seborrheic_keratosis", "A,1,1")
    with pytest.raises(DataError, match=r"gt.csv, line 2: melanoma and seborrheic_keratosis are both 1; mend one"):
        rows(table)
