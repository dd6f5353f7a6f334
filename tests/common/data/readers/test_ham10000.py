"""HAM10000 and its re-exports."""

from collections import Counter

import pytest

from melfed.common.data.records import group_ids, group_kind
from tests.common.data.readers.reading import plain_rows, rows, told
from tests.common.lesions import read_rows, write


@pytest.mark.parametrize(
    "columns", ["image_id,lesion_id,dx,dx_type,age,sex,localization", "image,image_id,lesion_id,dx,age", "image_id,dx"]
)
def test_re_exports_of_ham10000(tmp_path, columns):
    cells = {"image_id": "ISIC_1", "lesion_id": "HAM_1", "dx": "melanoma", "age": "80.0", "sex": "male", "image": ""}
    line = ",".join(cells.get(name, "") for name in columns.split(","))
    assert told(rows(write(tmp_path / "h.csv", columns, line)), "target", "source") == [("ISIC_1", 1, "HAM10000")]


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
