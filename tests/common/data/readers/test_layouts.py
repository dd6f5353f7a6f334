"""Each layout, with made-up rows in its published columns: what is a melanoma, who is who, what the picture is."""

from pathlib import Path

import openpyxl
import pytest

from melfed.common.data.records import LesionRecord, LesionTable, ReadOptions, group_ids, read_rows, read_table
from melfed.common.errors import DataError
from tests.common.lesions import touch, write


def rows(*tables: Path) -> dict[str, LesionRecord]:
    return {record.image: record for record in read_rows(tables)[1]}


def told(records: dict[str, LesionRecord], *names: str) -> list[tuple]:
    return [tuple(getattr(record, name) for name in ("image", *names)) for record in records.values()]


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


def test_isic2018_says_which_image_official_figures_leave_out(tmp_path):
    write(tmp_path / "gt.csv", "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "ISIC_0035068,0,1,0,0,0,0,0", "A,1,0,0,0,0,0,0")
    touch(tmp_path, "ISIC_0035068.jpg", "A.jpg")
    assert read_table(tmp_path).notes == (
        "ISIC_0035068 is synthetic: official figures of ISIC 2018 are of 1,511 test images, without it",
    )


FED = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK,target,center,fold,fold2"


def test_the_split_of_fed_isic2019_is_read_alone(tmp_path):
    table = write(tmp_path / "s.csv", FED, "A,1,0,0,0,0,0,0,0,0,0,4,train,train_4", "B,0,1,0,0,0,0,0,0,0,1,0.0,test,x")
    assert told(rows(table), "target", "diagnosis", "source") == [
        ("A", 1, "mel", "center_4"),
        ("B", 0, "nv", "center_0"),
    ]


ISIC2020 = "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target"


def test_a_re_export_of_isic2019_has_no_patients(tmp_path):
    table = write(
        tmp_path / "t.csv", ISIC2020, "A,-1,,,,MEL,malignant,1", "B,-1,,,,BCC,malignant,0", "C,-1.0,,,,NV,benign,0"
    )
    assert told(rows(table), "target", "diagnosis", "patient_id") == [
        ("A", 1, "mel", None), ("B", 0, "bcc", None), ("C", 0, "nv", None)
    ]  # fmt: skip


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


PAD = "patient_id,lesion_id,age,gender,fitspatrick,region,diagnostic,img_id,biopsed"


def test_pad_ufes_20_numbers_lesions_by_patient(tmp_path):
    table = write(
        tmp_path / "metadata.csv",
        PAD,
        "PAT_1,9,60,FEMALE,2.0,FACE,MEL,a.png,True",
        "PAT_1,9,60,FEMALE,2.0,FACE,MEL,b.png,True",
        "PAT_2,9,70,,,FOREARM,NEV,c.png,False",
        "PAT_2,8,70,,,FOREARM,ACK,d.png,False",
        "PAT_3,7,70,,,FOREARM,SEK,e.png,False",
    )
    records = rows(table)
    assert told(records, "target", "diagnosis", "patient_id", "lesion_id", "skin_type", "image_type") == [
        ("a.png", 1, "mel", "pat_1", "pat_1:9", 2, "clinical"),
        ("b.png", 1, "mel", "pat_1", "pat_1:9", 2, "clinical"),
        ("c.png", 0, "nv", "pat_2", "pat_2:9", None, "clinical"),
        ("d.png", 0, "ak", "pat_2", "pat_2:8", None, "clinical"),
        ("e.png", 0, "bkl", "pat_3", "pat_3:7", None, "clinical"),
    ]
    assert len(set(group_ids(list(records.values())))) == 3


def test_derm7pt_has_two_pictures_a_case_below_a_folder_of_images(tmp_path):
    write(
        tmp_path / "meta/meta.csv",
        "case_num,diagnosis,seven_point_score,location,sex,management,clinic,derm,case_id,notes",
        "1,melanoma (less than 0.76 mm),3,back,female,excision,NEL/Nel026.jpg,NEL/NEL027.jpg,,",
        "2,clark nevus,1,lower limbs,male,no further examination,NGL/Nel026.jpg,NGL/Ngl2.jpg,,",
    )
    touch(tmp_path, *(f"images/{name}.jpg" for name in ("NEL/Nel026", "NEL/NEL027", "NGL/Nel026", "NGL/Ngl2")))
    table = read_table(tmp_path)
    assert [(r.image, r.target, r.lesion_id, r.image_type, r.sex) for r in table.records] == [
        ("images/NEL/NEL027.jpg", 1, "1", "dermoscopic", "female"),
        ("images/NEL/Nel026.jpg", 1, "1", "clinical", "female"),
        ("images/NGL/Nel026.jpg", 0, "2", "clinical", "male"),
        ("images/NGL/Ngl2.jpg", 0, "2", "dermoscopic", "male"),
    ]
    assert table.notes == (
        "kinds of pictures are mixed (2 dermoscopic, 2 clinical); a network can tell them apart by that alone",
    )


def test_bcn20000(tmp_path):
    table = write(
        tmp_path / "bcn.csv",
        "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split",
        "BCN_0000000001.jpg,55.0,anterior torso,MEL,BCN_0003884,2012-05-16,male,train",
        "BCN_0000000002.jpg,,,SCC,BCN_0003885,2012-05-16,,train",
    )
    assert told(rows(table), "target", "diagnosis", "lesion_id", "age", "site") == [
        ("BCN_0000000001.jpg", 1, "mel", "bcn_0003884", 55, "anterior torso"),
        ("BCN_0000000002.jpg", 0, "scc", "bcn_0003885", None, None),
    ]


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


def test_ddi(tmp_path):
    table = write(
        tmp_path / "ddi_metadata.csv",
        ",DDI_ID,DDI_file,skin_tone,malignant,disease",
        "0,1,000001.png,56,True,melanoma-in-situ",
        "1,2,000002.png,12,True,mycosis-fungoides",
        "2,3,000003.png,34,False,melanocytic-nevi",
    )
    assert told(rows(table), "target", "skin_type", "image_type") == [
        ("000001.png", 1, None, "clinical"), ("000002.png", 0, None, "clinical"), ("000003.png", 0, None, "clinical")
    ]  # fmt: skip


def test_fitzpatrick17k(tmp_path):
    table = write(
        tmp_path / "fitzpatrick17k.csv",
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,url_alphanum",
        "5e82,3,3,superficial spreading melanoma ssm,malignant melanoma,malignant,,u,u",
        "fa29,-1,1,dermatofibroma,benign dermal,benign,,u,u",
    )
    assert told(rows(table), "target", "skin_type") == [("5e82", 1, 3), ("fa29", 0, None)]


@pytest.mark.parametrize(
    "columns", ["image_id,lesion_id,dx,dx_type,age,sex,localization", "image,image_id,lesion_id,dx,age", "image_id,dx"]
)
def test_re_exports_of_ham10000(tmp_path, columns):
    cells = {"image_id": "ISIC_1", "lesion_id": "HAM_1", "dx": "melanoma", "age": "80.0", "sex": "male", "image": ""}
    line = ",".join(cells.get(name, "") for name in columns.split(","))
    assert told(rows(write(tmp_path / "h.csv", columns, line)), "target", "source") == [("ISIC_1", 1, "HAM10000")]


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
