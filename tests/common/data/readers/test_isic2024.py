"""ISIC 2024: malignant or not, and which it is in the levels of the diagnosis."""

import pytest

from melfed.common.data.records import read_table
from melfed.common.errors import DataError
from tests.common.data.readers.reading import rows, told
from tests.common.lesions import read_rows, touch, write

SLICE = "isic_id,target,patient_id,age_approx,sex,anatom_site_general,image_type,tbp_lv_A,attribution,lesion_id"


IDDX = "iddx_full,iddx_1,iddx_2,iddx_3,iddx_4,iddx_5"


MALIGNANT = "Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma in situ,,"


BCC = "Malignant,Malignant adnexal epithelial proliferations - Follicular,Basal cell carcinoma,,"


def test_isic2024_target_is_malignant_and_melanoma_is_in_the_levels(tmp_path):
    def line(name: str, target: int, levels: str) -> str:
        full = "::".join(level for level in levels.split(",") if level)
        return (
            f"{name},{target},IP_1,60.0,male,posterior torso,TBP tile: close-up,18.1,Clinic,IL_{name},{full},{levels}"
        )

    write(
        tmp_path / "train-metadata.csv",
        f"{SLICE},{IDDX}",
        line("A", 1, MALIGNANT),
        line("B", 1, BCC),
        line("C", 0, "Benign,,,,"),
        line("D", 1, "Malignant,,,,"),
        line("E", 0, "Indeterminate,Indeterminate melanocytic proliferations,Atypical melanocytic neoplasm,,"),
        line("F", 0, ",,,,"),
    )
    touch(tmp_path, *(f"{name}.jpg" for name in "ABCDEF"))
    table = read_table(tmp_path)
    assert table.layout == "ISIC 2024"
    assert {(r.image, r.target) for r in table.records} == {("A.jpg", 1), ("B.jpg", 0), ("C.jpg", 0), ("F.jpg", 0)}
    assert {(r.patient_id, r.source, r.image_type, r.site) for r in table.records} == {
        ("ip_1", "Clinic", "tbp tile", "posterior torso")
    }
    # malignant without more, and indeterminate, are neither
    assert sorted(table.left_out_because("undecided")) == ["D.jpg", "E.jpg"]


def test_isic2024_refuses_a_target_against_its_diagnosis(tmp_path):
    table = write(tmp_path / "t.csv", f"isic_id,target,{IDDX}", f"A,0,Malignant::x,{BCC}")
    with pytest.raises(DataError, match=r"t\.csv, line 2: diagnosis 'Basal cell carcinoma' contradicts the target"):
        read_rows([table])


def test_isic2024_of_the_challenge_page_is_three_tables(tmp_path):
    truth = write(tmp_path / "gt.csv", "isic_id,malignant", "A,1.0", "B,0.0", "C,1.0")
    supplement = write(tmp_path / "s.csv", f"isic_id,{IDDX}", f"A,Malignant::x,{MALIGNANT}", "B,Benign,Benign,,,,")
    metadata = write(
        tmp_path / "m.csv", "isic_id,patient_id,sex,tbp_lv_A", "A,IP_1,male,1", "B,IP_1,male,1", "C,IP_2,,1"
    )
    records = rows(truth, supplement, metadata)
    assert told(records, "target", "patient_id") == [("A", 1, "ip_1"), ("B", 0, "ip_1")]
    assert told(rows(truth), "target") == [("B", 0)]
