import csv
from collections import Counter
from pathlib import Path

import pytest

from melfed.common.data.records import group_ids, group_kind, read_rows, read_table
from melfed.common.data.vocabulary.sites import SITES
from melfed.common.errors import DataError
from tests.common.lesions import one_line, touch, write

ISIC2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def plain_rows(*paths: Path) -> list[dict[str, str]]:
    return [row for path in paths for row in csv.DictReader(path.open(encoding="utf-8-sig"))]


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


def test_isic2019_strips_downsampled_and_joins_metadata(shared):
    tables = shared / "data/tables"
    truth = plain_rows(tables / "ISIC_2019_Training_GroundTruth.csv")
    metadata = plain_rows(tables / "ISIC_2019_Training_Metadata.csv")
    assert sum(r["image"].endswith("_downsampled") for r in truth) == 2074
    layout, records = read_rows([tables / f"ISIC_2019_Training_{name}.csv" for name in ("Metadata", "GroundTruth")])
    assert layout == "ISIC 2019"
    assert [r.image for r in records] == sorted(r["image"].replace("_downsampled", "") for r in truth)
    assert sum(r.target for r in records) == sum(r["MEL"] == "1.0" for r in truth) == 4522
    assert sum(r.diagnosis == "scc" for r in records) == sum(r["SCC"] == "1.0" for r in truth)
    assert len({r.lesion_id for r in records} - {None}) == len({r["lesion_id"] for r in metadata} - {""}) == 11847
    assert sum(r.age is None for r in records) == sum(r["age_approx"] == "" for r in metadata)
    assert Counter(r.sex for r in records) == {"male": 13286, "female": 11661, None: 384}
    assert Counter(r.site for r in records)["anterior torso"] == 6915
    assert {r.source for r in records} == {"ISIC2019"}
    assert group_kind(records) == "lesion where known, else image"


def test_fed_isic2019_split_names_the_centres(shared):
    tables = shared / "data/tables"
    names = ("fed_isic2019_train_test_split", "ISIC_2019_Training_GroundTruth", "ISIC_2019_Training_Metadata")
    _, records = read_rows([tables / f"{name}.csv" for name in names])
    split = plain_rows(tables / "fed_isic2019_train_test_split.csv")
    expected = Counter(f"center_{row['center']}" for row in split)
    assert Counter(r.source for r in records) == expected + Counter({"ISIC2019": 25331 - len(split)})


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


def test_ham10000_metadata(shared):
    path = shared / "data/tables/HAM10000_metadata.csv"
    layout, records = read_rows([path])
    rows = plain_rows(path)
    assert layout == "HAM10000"
    assert len(records) == len(rows) == 10015
    assert sum(r.target for r in records) == sum(row["dx"] == "mel" for row in rows) == 1113
    assert Counter(r.source for r in records) == Counter(f"HAM_{row['dataset']}" for row in rows)
    assert len(set(group_ids(records))) == len({row["lesion_id"] for row in rows}) == 7470
    assert group_kind(records) == "lesion"
    assert Counter(r.diagnosis for r in records)["akiec"] == sum(row["dx"] == "akiec" for row in rows)
    sites = Counter(row["localization"] for row in rows)
    found = Counter(r.site for r in records)
    assert found["posterior torso"] == sites["back"]
    assert found["anterior torso"] == sites["chest"] + sites["abdomen"]
    assert found["palms/soles"] == sites["acral"]
    assert found["lower extremity"] == sites["foot"] + sites["lower extremity"]
    assert found["head/neck"] == sum(sites[name] for name in ("scalp", "face", "ear", "neck"))
    assert found[None] == sites["unknown"]
    _, wide = read_rows([path], ["mel", "bcc", "akiec"])
    assert sum(r.target for r in wide) == sum(row["dx"] in ("mel", "bcc", "akiec") for row in rows)


@pytest.mark.parametrize(
    ("folder", "images", "melanomas", "groups"), [("ham10000", 10015, 1113, 7470), ("isic", 6000, 1012, 5976)]
)
def test_melfed_folders_of_real_images(shared, folder, images, melanomas, groups):
    table = read_table(shared / "data" / folder)
    assert (table.layout, table.missing, table.unlisted) == ("melfed", (), ())
    assert len(table.records) == images
    assert sum(r.target for r in table.records) == melanomas
    assert len(set(group_ids(table.records))) == groups
    assert {r.site for r in table.records} <= {*SITES, None}
    assert (table.root / table.records[0].image).is_file()


def test_all_published_tables_together_are_refused(shared):
    with pytest.raises(
        DataError, match=r"tables of 4 layouts in one folder .*HAM10000_metadata.csv is HAM10000"
    ) as error:
        read_rows(sorted((shared / "data/tables").glob("*.csv")))
    assert "keep one of them" in one_line(error)


def test_isic2018_with_lesion_grouping(tmp_path):
    truth = write(tmp_path / "x.csv", "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC", "A,1.0,0,0,0,0,0,0", "B,0.0,0,0,1.0,0,0,0")
    lesions = write(tmp_path / "y.csv", "image,lesion_id,diagnosis_confirm_type", "A,HAM_1,histopathology", "C,HAM_2,x")
    layout, records = read_rows([lesions, truth])
    assert layout == "ISIC 2018"
    assert [(r.image, r.target, r.diagnosis, r.lesion_id, r.source) for r in records] == [
        ("A", 1, "mel", "ham_1", "ISIC2018"),
        ("B", 0, "akiec", None, "ISIC2018"),
    ]


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


def test_isic2019_test_table_knows_what_unk_is_not(tmp_path):
    path = write(tmp_path / "gt.csv", ISIC2019, "A_downsampled,0,0,0,0,0,0,0,0,1")
    assert read_rows([path], ["nv", "bkl"])[1][0].target == 0


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("folder", "records", "melanomas", "groups"),
    [
        ("fault-age-1960", 6, 2, 6),
        ("fault-dcm-heic-are-there", 6, 0, 3),
        ("fault-indeterminate-is-negative", 4, 2, 4),
        ("fault-isic-archive-2026-sites", 20, 5, 10),
        ("fault-malignant-melanoma-is-negative", 12, 7, 12),
        ("fault-patient-1-and-1.0", 60, 14, 30),
        ("fault-patient-minus-1", 24, 6, 24),
        ("fault-patient-numbers-of-two-clinics", 100, 24, 70),
        ("gap-bcn20000", 12, 3, 6),
        ("gap-column-PatientID", 24, 6, 8),
        ("gap-isic-2016", 8, 2, 8),
        ("gap-isic-2024-slice-3d", 16, 2, 6),
        ("gap-milk10k", 16, 4, 8),
        ("gap-pad-ufes-20", 12, 2, 4),
        ("gap-site-words", 12, 6, 12),
        ("ok-archive-2023", 30, 12, 10),
    ],
)
def test_inputs_that_once_failed(shared, folder, records, melanomas, groups, strict):
    found = read_table(shared / "data/found" / folder / "data", strict=strict).records
    assert (len(found), sum(r.target for r in found), len(set(group_ids(found)))) == (records, melanomas, groups)
    assert all(r.age is None or r.age <= 120 for r in found)
    if "site" in folder:
        assert all(r.site is not None for r in found)


@pytest.mark.parametrize(
    ("tables", "records", "melanomas", "groups"),
    [
        (["slice-3d/test-metadata.csv"], 5, 0, 5),
        (["milk10k/MILK10k_Training_GroundTruth.csv", "milk10k/MILK10k_Training_Metadata.csv"], 598, 60, 299),
        (
            ["isic2019-test/ISIC_2019_Test_GroundTruth.csv", "isic2019-test/ISIC_2019_Test_Metadata.csv"],
            8238,
            1327,
            8238,
        ),
        (["isic2018-train/ISIC2018_Task3_Training_GroundTruth.csv"], 10015, 1113, 10015),
        (["isic2016/ISBI2016_ISIC_Part3_Training_GroundTruth.csv"], 900, 173, 900),
        (["fitzpatrick17k/fitzpatrick17k.csv"], 300, 10, 300),
        (["pad-ufes-20/metadata.csv"], 2298, 52, 1373),
    ],
)
def test_published_tables_of_repositories(shared, tables, records, melanomas, groups):
    found = read_rows([shared / "data/found/tables" / table for table in tables])[1]
    assert (len(found), sum(r.target for r in found), len(set(group_ids(found)))) == (records, melanomas, groups)
