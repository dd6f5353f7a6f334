import pytest

from melfed.common.errors import DataError
from tests.common.lesions import one_line, read_rows, write

HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
ISIC2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def test_one_hot_rows_must_have_exactly_one(tmp_path):
    path = write(tmp_path / "gt.csv", ISIC2019, "A,1,1,0,0,0,0,0,0,0")
    with pytest.raises(DataError, match=r"gt.csv, line 2: 2 of the columns MEL, NV"):
        read_rows([path])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,target", "a,1", "a,1"], "line 3: a second row for 'a' .the first: t.csv, line 2."),
        (["image,target", ",1"], "line 2: the column image is empty"),
        (["image,target", "a,1,x"], "line 2: 3 cells below 2 columns"),
        (["image,target"], "no rows below its header"),
        ([HAM, "L,I,unknown,,,,,"], "line 2: dx is empty"),
        (["image,age_approx,anatom_site_general", "a,3,"], "no table with diagnoses .t.csv only adds to ISIC 2019"),
        (["pixel1,pixel2,label", "0,0,1"], "t.csv has pixel1, pixel2, label.; known are those of .*HAM10000.*call the"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, lines, message):
    with pytest.raises(DataError, match=message) as error:
        read_rows([write(tmp_path / "t.csv", *lines)])
    one_line(error)


def test_two_ground_truths_that_disagree(tmp_path):
    first = write(tmp_path / "a.csv", "image_id,melanoma", "X,1")
    second = write(tmp_path / "b.csv", "image_id,melanoma,seborrheic_keratosis", "X,0,0")
    with pytest.raises(DataError, match=r"b.csv, line 2: diagnosis of 'X' is nv, but mel in a.csv, line 2"):
        read_rows([first, second])


def test_other_positives_need_diagnoses(tmp_path):
    path = write(tmp_path / "t.csv", "image,target,diagnosis", "a,0,scc", "b,1,mel", "c,0,")
    assert [r.target for r in read_rows([path])[1]] == [0, 1, 0]  # the table's own target counts for melanoma
    with pytest.raises(DataError, match=r"t.csv, line 4: the diagnosis of 'c'"):
        read_rows([path], ["mel", "scc"])
    path = write(tmp_path / "u.csv", "image,diagnosis", "a,scc", "b,melanoma", "c,nevus")
    assert [r.target for r in read_rows([path], ["SCC", "mel"])[1]] == [1, 1, 0]


def test_a_positive_is_judged_by_the_vocabulary_alone(tmp_path):
    path = write(tmp_path / "t.csv", "image,target,diagnosis", "a,0,wartoid", "b,1,mel")
    with pytest.raises(DataError, match="no diagnosis is called 'wartoid'"):
        read_rows([path], ["wartoid"])


@pytest.mark.parametrize("line", ["a,1,scc", "a,0,melanoma", "a,0,malignant melanoma", "a,1,nevus"])
def test_a_target_that_the_diagnosis_contradicts(tmp_path, line):
    path = write(tmp_path / "t.csv", "image,target,diagnosis", line)
    with pytest.raises(DataError, match=r"t.csv, line 2: diagnosis '.*' contradicts the target") as error:
        read_rows([path])
    one_line(error)
