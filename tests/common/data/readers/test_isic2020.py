"""ISIC 2020: patients, a diagnosis where it is known, melanoma or not."""

from collections import Counter

import pytest

from melfed.common.data.records import group_ids, group_kind
from melfed.common.errors import DataError
from tests.common.data.readers.reading import plain_rows, rows, told
from tests.common.lesions import read_rows, write

ISIC2020 = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"


def test_a_re_export_of_isic2019_has_no_patients(tmp_path):
    table = write(
        tmp_path / "t.csv", ISIC2020, "A,-1,,,,MEL,malignant,1", "B,-1,,,,BCC,malignant,0", "C,-1.0,,,,NV,benign,0"
    )
    assert told(rows(table), "target", "diagnosis", "patient_id") == [
        ("A", 1, "mel", None), ("B", 0, "bcc", None), ("C", 0, "nv", None)
    ]  # fmt: skip


def test_isic2020_has_patients(shared):
    path = shared / "data/tables/ISIC_2020_Training_GroundTruth_v2.csv"
    layout, records = read_rows([path])
    assert layout == "ISIC 2020"
    assert len(records) == len(plain_rows(path)) == 33126
    assert sum(r.target for r in records) == sum(r.diagnosis == "mel" for r in records) == 584
    assert len({r.patient_id for r in records}) == len(set(group_ids(records))) == 2056
    assert group_kind(records) == "patient"
    assert Counter(r.diagnosis for r in records)["bkl"] == 135 + 37 + 7
    assert Counter(r.diagnosis for r in records)[None] == 27124 + 1  # and one that is undecided
    # what is benign but unknown is no cancer, and nobody knows whether it is a nevus
    _, malignant = read_rows([path], ["mel", "bcc", "scc"])
    assert sum(r.target for r in malignant) == 584
    with pytest.raises(
        DataError,
        match=r"line \d+: the diagnosis of 'ISIC_\d+' is not known well enough to tell whether it is one of nv",
    ):
        read_rows([path], ["nv"])


def test_benign_without_a_diagnosis_is_no_cancer_and_a_target_settles_what_is_undecided(tmp_path):
    table = write(
        tmp_path / "t.csv",
        ISIC2020,
        "A,IP_1,male,45.0,head/neck,unknown,benign,0",
        "B,IP_1,male,45.0,torso,melanoma,malignant,1",
        "C,IP_2,female,,torso,atypical melanocytic proliferation,benign,0",
    )
    assert told(rows(table), "target", "diagnosis", "patient_id", "age") == [
        ("A", 0, None, "ip_1", 45), ("B", 1, "mel", "ip_1", 45), ("C", 0, None, "ip_2", None)
    ]  # fmt: skip
    assert (
        read_rows([write(tmp_path / "u.csv", ISIC2020, "A,IP_1,,,,unknown,benign,0")], ["mel", "bcc"])[1][0].target == 0
    )
    with pytest.raises(
        DataError, match="the diagnosis of 'A' is not known well enough to tell whether it is one of nv"
    ):
        read_rows([table], ["nv"])
