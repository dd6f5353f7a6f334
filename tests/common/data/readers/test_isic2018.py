"""ISIC 2018: one of seven classes, lesions in a table of their own."""

from melfed.common.data.records import read_table
from tests.common.lesions import read_rows, touch, write


def test_isic2018_says_which_image_official_figures_leave_out(tmp_path):
    write(tmp_path / "gt.csv", "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "ISIC_0035068,0,1,0,0,0,0,0", "A,1,0,0,0,0,0,0")
    touch(tmp_path, "ISIC_0035068.jpg", "A.jpg")
    assert read_table(tmp_path).notes == (
        "ISIC_0035068 is synthetic: official figures of ISIC 2018 are of 1,511 test images, without it",
    )


def test_isic2018_with_lesion_grouping(tmp_path):
    truth = write(tmp_path / "x.csv", "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "A,1.0,0,0,0,0,0,0", "B,0.0,0,0,1.0,0,0,0")
    lesions = write(tmp_path / "y.csv", "image,lesion_id,diagnosis_confirm_type", "A,HAM_1,histopathology", "C,HAM_2,x")
    layout, records = read_rows([lesions, truth])
    assert layout == "ISIC 2018"
    assert [(r.image, r.target, r.diagnosis, r.lesion_id, r.source) for r in records] == [
        ("A", 1, "mel", "ham_1", "ISIC2018"),
        ("B", 0, "akiec", None, "ISIC2018"),
    ]
