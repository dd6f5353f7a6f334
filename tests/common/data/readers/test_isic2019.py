"""ISIC 2019 and the split of Fed-ISIC2019."""

from collections import Counter

from melfed.common.data.records import group_kind
from tests.common.data.readers.reading import plain_rows, rows, told
from tests.common.lesions import read_rows, write

ISIC2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


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


def test_isic2019_test_table_knows_what_unk_is_not(tmp_path):
    path = write(tmp_path / "gt.csv", ISIC2019, "A_downsampled,0,0,0,0,0,0,0,0,1")
    assert read_rows([path], ["nv", "bkl"])[1][0].target == 0


FED = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK,target,center,fold,fold2"


def test_the_split_of_fed_isic2019_is_read_alone(tmp_path):
    table = write(tmp_path / "s.csv", FED, "A,1,0,0,0,0,0,0,0,0,0,4,train,train_4", "B,0,1,0,0,0,0,0,0,0,1,0.0,test,x")
    assert told(rows(table), "target", "diagnosis", "source") == [
        ("A", 1, "mel", "center_4"),
        ("B", 0, "nv", "center_0"),
    ]


def test_metadata_complete_the_classes_and_ids_lose_their_suffix(tmp_path):
    truth = write(tmp_path / "gt.csv", ISIC2019, "A_downsampled,1,0,0,0,0,0,0,0,0", "B,0,0,0,1,0,0,0,0,0")
    columns = "image,age_approx,anatom_site_general,lesion_id,sex"
    metadata = write(tmp_path / "m.csv", columns, "A_downsampled,55.0,lower extremity,BCN_1,female", "B,,,,")
    assert told(rows(truth, metadata), "target", "diagnosis", "age", "site", "lesion_id", "image_type") == [
        ("A", 1, "mel", 55, "lower extremity", "bcn_1", "dermoscopic"),
        ("B", 0, "ak", None, None, None, "dermoscopic"),
    ]
