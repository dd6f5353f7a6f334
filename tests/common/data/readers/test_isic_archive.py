"""Exports of the ISIC archive, of today and of older vintages."""

from pathlib import Path

from melfed.common.data.records import LesionTable, ReadOptions, read_table
from tests.common.data.readers.reading import rows, told
from tests.common.lesions import read_rows, touch, write


def archive(folder: Path, *lines: str) -> LesionTable:
    write(
        folder / "metadata.csv",
        "isic_id,attribution,diagnosis_1,diagnosis_2,diagnosis_3,image_type,image_manipulation",
        *lines,
    )
    touch(folder, *(f"{line.split(',')[0]}.jpg" for line in lines))
    return read_table(folder)


BENIGN = "Benign,Benign melanocytic proliferations,Nevus"


def test_the_archive_has_more_than_dermoscopy(tmp_path):
    lines = [
        f"A,C,{BENIGN},dermoscopic,instrument only",
        f"B,C,{BENIGN},RCM: mosaic,instrument only",
        f"C,C,{BENIGN},dermoscopic,synthetic",
        f"D,C,{BENIGN},clinical: overview,altered",
    ]
    table = archive(tmp_path, *lines)
    assert [(r.image, r.image_type, r.manipulated) for r in table.records] == [
        ("A.jpg", "dermoscopic", None), ("D.jpg", "overview", "altered")
    ]  # fmt: skip
    assert [(row.image, row.reason) for row in table.left_out] == [("B.jpg", "image type rcm"), ("C.jpg", "synthetic")]
    everything = read_table(tmp_path, options=ReadOptions(image_types=frozenset({"rcm"}), synthetic=True))
    assert len(everything.records) == 4


def test_naevi_that_are_not_melanocytic_are_no_nv(tmp_path):
    follicular = "Benign,Benign adnexal epithelial proliferations - Follicular,Nevus comedonicus"
    table = archive(tmp_path, f"A,C,{follicular},dermoscopic,", f"B,C,{BENIGN},dermoscopic,")
    assert [record.diagnosis for record in table.records] == ["ben_oth", "nv"]


def test_sites_of_todays_archive_refine_each_other(tmp_path):
    table = write(
        tmp_path / "m.csv",
        "isic_id,diagnosis_1,anatom_site_1,anatom_site_2,anatom_site_3",
        "A,Benign,Trunk,Posterior trunk,Upper back",
        "B,Benign,Upper extremity,Hand,Palm of hand",
        "C,Benign,Head and neck,,",
    )
    assert told(rows(table), "site") == [("A", "posterior torso"), ("B", "palms/soles"), ("C", "head/neck")]


def test_the_archive_until_2021(tmp_path):
    table = write(
        tmp_path / "m.csv",
        "name,dataset.name,meta.clinical.age_approx,meta.clinical.sex,meta.clinical.anatom_site_general,"
        "meta.clinical.benign_malignant,meta.clinical.diagnosis",
        "ISIC_1,MSK-1,55,male,anterior torso,malignant,melanoma",
        "ISIC_2,UDA-1,,,,benign,nevus",
        "ISIC_3,UDA-1,,,,indeterminate/malignant,",
    )
    assert told(rows(table), "target", "source", "age", "site") == [
        ("ISIC_1", 1, "MSK-1", 55, "anterior torso"), ("ISIC_2", 0, "UDA-1", None, None)
    ]  # fmt: skip


def test_patients_of_the_archive_are_unique_and_others_are_their_sources(tmp_path):
    table = write(
        tmp_path / "m.csv",
        "isic_id,attribution,diagnosis_1,patient_id",
        *("A,C1,Benign,IP_0000001", "B,C2,Benign,ip_0000001", "C,C1,Benign,7", "D,C2,Benign,7"),
    )
    assert [record.patient_id for record in rows(table).values()] == ["ip_0000001", "ip_0000001", "c1:7", "c2:7"]


def test_archive_export(tmp_path):
    write(
        tmp_path / "metadata.csv",
        "isic_id,attribution,age_approx,anatom_site_general,sex,patient_id,lesion_id,"
        "diagnosis_1,diagnosis_2,diagnosis_3,diagnosis_4,diagnosis_5",
        "I1,Clinic Süd,85+,head/neck,male,P1,L1,"
        "Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma Invasive,,",
        'I2,"Dept., Wien",,,,P1,,'
        'Benign,Benign melanocytic proliferations,Nevus,"Nevus, Atypical, Dysplastic, or Clark",',
        "I3,,30,lateral torso,f,,,"
        "Malignant,Malignant adnexal epithelial proliferations - Follicular,Basal cell carcinoma,,",
        "I4,,30,,,,,Benign,,,,",
        "I5,,30,,,,,Malignant,,,,",
        "I6,,,,,,,,,,,",
    )
    touch(tmp_path, *(f"I{i}.jpg" for i in range(1, 7)))
    table = read_table(tmp_path)
    assert table.layout == "ISIC archive"
    assert [(r.target, r.diagnosis) for r in table.records] == [
        (1, "mel"), (0, "nv"), (0, "bcc"), (0, "benign")
    ]  # fmt: skip
    first, second, third, _ = table.records
    assert (first.source, first.age, first.site, first.sex) == ("Clinic Süd", 85, "head/neck", "male")
    assert (first.patient_id, first.lesion_id, second.patient_id) == (
        "clinic süd:p1", "clinic süd%3Ap1:l1", "dept., wien:p1"
    )  # fmt: skip
    assert (second.source, second.age, third.source, third.sex) == ("Dept., Wien", None, "ISIC archive", "female")
    assert table.undiagnosed == ("I5.jpg", "I6.jpg")  # nobody knows whether they are melanomas
    assert table.unlisted == ()


def test_older_archive_export_has_one_diagnosis_column(tmp_path):
    path = write(
        tmp_path / "m.csv",
        "isic_id,benign_malignant,diagnosis",
        "A,malignant,melanoma",
        "B,benign,seborrheic keratosis",
        "C,benign,",
        "D,,angiofibroma or fibrous papule",
    )
    _, records = read_rows([path])
    assert [(r.target, r.diagnosis) for r in records] == [
        (1, "mel"), (0, "bkl"), (0, "benign"), (0, "ben_oth")
    ]  # fmt: skip
