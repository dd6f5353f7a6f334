import pytest

from melfed.common.data.records import ReadOptions, read_table
from melfed.common.errors import DataError
from tests.common.lesions import one_line, touch


def read(folder, **classes):
    return read_table(folder, options=ReadOptions(classes=classes))


def test_folders_by_class(tmp_path):
    touch(tmp_path, "train/Benign/1.jpg", "train/Melanoma/2.jpg", "test/melanoma/2.jpg", "other/3.jpg")
    table = read(tmp_path, benign="0", melanoma="1")
    assert table.layout == "folders by class"
    assert [(r.image, r.target, r.patient_id) for r in table.records] == [
        ("test/melanoma/2.jpg", 1, None), ("train/Benign/1.jpg", 0, None), ("train/Melanoma/2.jpg", 1, None)
    ]  # fmt: skip
    assert table.unlisted == ("other/3.jpg",)


def test_folders_of_codes(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/2.jpg")
    assert [record.diagnosis for record in read(tmp_path, a="bcc", b="mel").records] == ["bcc", "mel"]


def test_malignant_is_not_melanoma(tmp_path):
    touch(tmp_path, "benign/1.jpg", "malignant/2.jpg")
    with pytest.raises(
        DataError, match=r"--classes benign=0,malignant=\? .malignant is not melanoma: it includes other cancers"
    ) as error:
        read_table(tmp_path)
    one_line(error)
    said = read(tmp_path, benign="0", malignant="1")
    assert [record.target for record in said.records] == [0, 1]
    (note,) = said.notes
    assert note.startswith("folder malignant: malignant is not melanoma")
    open_ones = read(tmp_path, benign="0", malignant="malignant")
    assert open_ones.left_out_because("undecided") == ("malignant/2.jpg",)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {"benign": "0", "melanoma": "2"},
            "classes: 'melanoma' is '2'; give 0 .no melanoma., 1 .melanoma. or one of mel,",
        ),
        ({"benign": "0", "nevi": "0"}, "no folder nevi with images"),
        ({"benign": "0", "deep": "1"}, "'benign/deep/1.jpg' is in folders of two classes .benign, deep."),
    ],
)
def test_classes_that_cannot_be_used(tmp_path, classes, message):
    touch(tmp_path, "benign/deep/1.jpg", "melanoma/2.jpg")
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, **classes)
    one_line(error)
