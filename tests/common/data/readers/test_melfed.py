"""melfed's own table."""

import pytest

from melfed.common.data.records import group_ids, read_table
from melfed.common.data.vocabulary.sites import SITES
from melfed.common.errors import DataError
from tests.common.lesions import one_line, read_rows, record, write


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


def test_melfed_cells_as_people_write_them(tmp_path):
    path = tmp_path / "clinic_a" / "t.csv"
    path.parent.mkdir()
    lines = [
        "\ufeffImage;Target;AGE;sex;site;diagnosis;patient_id",
        "a.jpg;1.0;45.0;m;Back;unknown;NA",
        "",
        ";;;",
        "b.jpg;0;nan;?;moon;;p1",
    ]
    path.write_bytes("\r\n".join(lines[:3] + lines[4:]).encode())
    layout, (a, b) = read_rows([path])
    assert layout == "melfed"
    torso = "posterior torso"
    assert a == record("a.jpg", target=1, diagnosis="mel", age=45.0, sex="male", site=torso, source="clinic_a")
    assert b == record("b.jpg", patient_id="clinic_a:p1", source="clinic_a")


@pytest.mark.parametrize("value", ["2", "yes", "", "0.5", "-1", "nan", "1e400"])
def test_a_target_that_is_not_binary(tmp_path, value):
    path = write(tmp_path / "metadata.csv", "image,target", "a.jpg,1", f"b.jpg,{value}")
    with pytest.raises(DataError, match=f"metadata.csv, line 3: target is '{value}', and only 0 or 1") as error:
        read_rows([path])
    one_line(error)
