"""MILK10k: a truth a lesion, two images of each, a supplement."""

from pathlib import Path

import pytest

from melfed.common.data.records import read_table
from tests.common.data.readers.reading import rows, told
from tests.common.lesions import touch, write

MILK = "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC"


MILK_IMAGES = (
    "lesion_id,image_type,isic_id,attribution,copyright_license,image_manipulation,age_approx,sex,skin_tone_class,site"
)


def milk(folder: Path) -> list[Path]:
    truth = write(
        folder / "gt.csv",
        MILK,
        "IL_1,0,0,0,0,0,0,0,1,0,0,0",
        "IL_2,0,0,0,0,0,0,1,0,0,0,0",
        "IL_3,0,0,0,0,0,0,1,0,0,0,0",
    )
    images = write(
        folder / "m.csv",
        MILK_IMAGES,
        *(
            f"IL_{lesion},{kind},I{lesion}{kind[0]},MILK,CC,altered,70,male,5,head_neck_face"
            for lesion in (1, 2, 3)
            for kind in ("clinical: close-up", "dermoscopic")
        ),
    )
    return [truth, images]


def test_milk10k_has_its_truth_by_lesion_and_two_pictures_of_each(tmp_path):
    records = rows(*milk(tmp_path))
    assert told(records, "target", "lesion_id", "image_type", "site", "age", "manipulated") == [
        ("I1c", 1, "il_1", "clinical", "head/neck", 70, "altered"),
        ("I1d", 1, "il_1", "dermoscopic", "head/neck", 70, "altered"),
    ]  # what is MAL_OTH may hide a melanoma, as long as no supplement says what it is


@pytest.mark.parametrize(
    ("second", "theirs"), [("IL_1,P2,0,0,0,0,0,0,0,0,1,0,0", 0), ("IL_1,P2,0,0,0,0,0,0,0,2,0,0,0", None)]
)
def test_a_lesions_truth_is_of_its_own_patient_where_patients_are_named(tmp_path, second, theirs):
    truth = f"lesion_id,patient_id,{MILK.partition(',')[2]}"
    write(tmp_path / "gt.csv", truth, "IL_1,P1,0,0,0,0,0,0,0,1,0,0,0", second)
    columns = f"patient_id,{MILK_IMAGES}"
    line = "P{0},IL_1,dermoscopic,A{0},MILK,CC,altered,70,male,5,head_neck_face"
    write(tmp_path / "m.csv", columns, line.format(1), line.format(2))
    touch(tmp_path, "A1.jpg", "A2.jpg")
    found = {record.image: record.target for record in read_table(tmp_path, strict=False).records}
    assert (found["A1.jpg"], found.get("A2.jpg")) == (1, theirs)


def test_milk10k_with_its_supplement_tells_collisions_from_other_cancers(tmp_path):
    supplement = write(
        tmp_path / "s.csv",
        "isic_id,diagnosis_full,diagnosis_confirm_type,invasion_thickness_interval",
        *(f"I2{kind},Collision - At least one malignant proliferation,histopathology," for kind in "cd"),
        *(f"I3{kind},Merkel cell carcinoma,histopathology," for kind in "cd"),
        "I1d,Melanoma in situ,histopathology,",
    )
    records = rows(*milk(tmp_path), supplement)
    assert {name: record.target for name, record in records.items()} == {"I1c": 1, "I1d": 1, "I3c": 0, "I3d": 0}
