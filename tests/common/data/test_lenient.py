"""A private study after its approval: no row is an error, and none changes what becomes of another patient's."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.identity import normal_id
from melfed.common.data.records import LesionRecord, LesionTable, ReadOptions, group_ids, read_table
from melfed.common.errors import DataError
from tests.common.lesions import read_rows, touch, write

COLUMNS = ("image", "target", "diagnosis", "patient_id", "lesion_id", "dup_group", "age", "sex", "site", "source")
IMAGES = [f"{number}.jpg" for number in range(4)]
CELLS = st.fixed_dictionaries(
    {
        "image": st.sampled_from([*IMAGES, "0", "gone.jpg", "", "../0.jpg"]),
        "target": st.sampled_from(["0", "1", "0", "1", "2", ""]),
        "diagnosis": st.sampled_from(["", "", "mel", "nv", "malignant melanoma", "wartoid", "MELTUMP"]),
        "patient_id": st.sampled_from(["1", "1.0", " 01", "2", "P3", "p3", "0", "", "-1", "anonymous"]),
        "lesion_id": st.sampled_from(["", "1", "2", "IL_0000001"]),
        "dup_group": st.sampled_from(["", "d"]),
        "age": st.sampled_from(["", "50", "1960", "045Y"]),
        "sex": st.sampled_from(["", "m", "FEMALE", "?"]),
        "site": st.sampled_from(["", "back", "moon"]),
        "source": st.sampled_from(["A", "B"]),
    }
)
Row = dict[str, str]


def read(rows: list[Row], strict: bool = False, **options) -> LesionTable:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(root, *IMAGES)
        lines = (",".join(row[column] for column in COLUMNS) for row in rows)
        write(root / "t.csv", ",".join(COLUMNS), *lines)
        return read_table(root, options=ReadOptions(**options), strict=strict)


def told(records: tuple[LesionRecord, ...]) -> Counter[tuple[LesionRecord, str]]:
    """Every record with the group that it is in."""
    return Counter(zip(records, group_ids(records), strict=True))


def person(row: Row) -> tuple[str, str | None]:
    return row["source"], normal_id(row["patient_id"])


@settings(deadline=None, max_examples=150)
@given(st.lists(CELLS, min_size=1, max_size=8), st.data())
def test_no_patient_changes_what_becomes_of_another(rows, data):
    someone = data.draw(st.sampled_from([person(row) for row in rows]))
    if someone[1] is None:
        return  # rows of nobody known are nobody's in particular
    theirs = f"{someone[0].lower()}:{someone[1]}"
    with_them = read(rows)
    without = read([row for row in rows if person(row) != someone])
    others = tuple(record for record in with_them.records if record.patient_id != theirs)
    assert told(others) == told(without.records)


@settings(deadline=None, max_examples=60)
@given(st.lists(CELLS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_lines_changes_nothing(rows, random):
    assert told(read(rows).records) == told(read(random.sample(rows, len(rows))).records)


@settings(deadline=None, max_examples=60)
@given(st.lists(CELLS, min_size=1, max_size=8, unique_by=lambda row: tuple(sorted(row.items()))))
def test_every_row_is_a_record_or_told_about(rows):
    table = read(rows)
    told_about = {left.image for left in table.left_out}
    for row in rows:
        open_word, image = row["diagnosis"] in ("wartoid", "MELTUMP"), row["image"]
        if (open_word or row["target"] not in ("0", "1")) and image in IMAGES:
            assert image in told_about
    assert all(record.diagnosis in ("mel", "nv", None) for record in table.records)
    assert len(table.records) + len(table.left_out) <= len(rows)


@settings(deadline=None, max_examples=100)
@given(st.text(min_size=1, max_size=12), st.sampled_from(["", "0", "1"]))
def test_no_unknown_word_becomes_a_negative(word, target):
    """A word that nobody can know, since it has no sense: whatever it holds, it is left out and named."""
    cell = "Zqx" + "".join(character for character in word if character.isalnum()) + " wqzt"
    rows = [dict.fromkeys(COLUMNS, "") | {"image": "0.jpg", "target": "0", "source": "A"}]
    rows += [dict.fromkeys(COLUMNS, "") | {"image": "1.jpg", "target": target or "0", "diagnosis": cell, "source": "A"}]
    table = read(rows)
    assert [record.image for record in table.records] == ["0.jpg"]
    assert table.left_out_because("unknown word") == ("1.jpg",)
    with pytest.raises(DataError, match=r"1 diagnoses are not in the vocabulary: 'Zqx.*' \(1\); map each"):
        read(rows, strict=True)


def row(**cells: str) -> Row:
    return dict.fromkeys(COLUMNS, "") | {"target": "0", "source": "A"} | cells


def test_two_patients_lines_for_one_image_stay_with_each_of_them():
    table = read([row(image="0.jpg", patient_id="1", target="1"), row(image="0.jpg", patient_id="2")])
    assert {(r.image, r.patient_id, r.target) for r in table.records} == {("0.jpg", "a:1", 1), ("0.jpg", "a:2", 0)}


def test_contradicting_lines_of_one_patient_are_both_left_out_and_equal_ones_are_one():
    lines = [row(image="0.jpg", patient_id="1"), row(image="1.jpg", patient_id="1")]
    assert len(read([*lines, dict(lines[0])]).records) == 2
    table = read([*lines, row(image="0", patient_id="1.0", target="1")])
    assert [record.image for record in table.records] == ["1.jpg"]
    assert [left.reason for left in table.left_out] == ["two lines about this image contradict each other"] * 2


def test_a_bad_line_does_not_hide_a_contradiction():
    bad = row(image="0.jpg", patient_id="1", target="2")
    table = read([row(image="0.jpg", patient_id="1"), bad, row(image="0.jpg", patient_id="1", target="1")])
    assert (len(table.records), len(table.left_out)) == (0, 3)


def test_a_lesion_joins_no_patients():
    lines = [row(image=f"{number}.jpg", patient_id=str(number), lesion_id="IL_0000001") for number in range(2)]
    assert len(set(group_ids(read(lines).records))) == 2
    strictly = read(lines, strict=True)
    assert len(set(group_ids(strictly.records))) == 1
    assert strictly.people.shared_lesions == 1


@pytest.mark.parametrize("shared", [False, True])
def test_ids_of_two_sources_are_two_people_unless_said_otherwise(shared):
    lines = [row(image="0.jpg", patient_id="7"), row(image="1.jpg", patient_id="7.0", source="B")]
    for strict in (False, True):
        table = read(lines, strict=strict, shared_ids=shared)
        assert len({record.patient_id for record in table.records}) == (1 if shared else 2)
        assert (table.people.over_sources, table.people.shared) == (1, shared)


def test_zeros_for_all_are_nobody_strictly_and_one_person_leniently():
    lines = [row(image=f"{number}.jpg", patient_id=zero) for number, zero in enumerate(["0", "0.0", "00"])]
    assert [record.patient_id for record in read(lines, strict=True).records] == [None] * 3
    assert {record.patient_id for record in read(lines).records} == {"a:0"}  # cautious: no row can say what others say
    lines[0]["patient_id"] = "12"
    assert [record.patient_id for record in read(lines, strict=True).records] == ["a:12", "a:0", "a:0"]


def test_a_lesion_without_a_patient_is_its_one_patients_strictly():
    lines = [
        row(image="0.jpg", patient_id="1", lesion_id="5"),
        row(image="1.jpg", lesion_id="5"),
        row(image="2.jpg", patient_id="2", lesion_id="6"),
        row(image="3.jpg", patient_id="3", lesion_id="6"),
    ]
    sizes = Counter(group_ids(read(lines, strict=True).records))
    assert sizes == {"patient:a:1": 2, "patient:a:2": 1, "patient:a:3": 1}


def test_spellings_of_one_person_are_told():
    lines = [row(image=f"{number}.jpg", patient_id=name) for number, name in enumerate(["P7", "p7 ", "-1"])]
    people = read(lines, strict=True).people
    assert (people.respelled, people.nobody) == ((("P7", "p7"),), {"-1": 1})


def test_only_an_unreadable_folder_or_table_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_table(tmp_path / "gone", strict=False)
    with pytest.raises(DataError, match="no table with known columns"):
        read_table(tmp_path, strict=False)
    write(tmp_path / "t.csv", "image,target")
    assert read_table(tmp_path, strict=False).records == ()
    (tmp_path / "broken.xlsx").write_bytes(b"PK no workbook")
    assert read_table(tmp_path, strict=False).records == ()
    (tmp_path / "t.csv").unlink()
    with pytest.raises(DataError, match=r"broken.xlsx: cannot be read as an Excel workbook"):
        read_table(tmp_path, strict=False)


def test_additions_that_contradict_each_other(tmp_path):
    truth = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
    write(tmp_path / "gt.csv", truth, "A,1,0,0,0,0,0,0,0,0", "B,0,1,0,0,0,0,0,0,0")
    columns = "image,age_approx,anatom_site_general,lesion_id,sex"
    write(tmp_path / "m.csv", columns, "A,50,,HAM_1,male", "A,50,,HAM_2,male", "B,50,,HAM_3,male")
    touch(tmp_path, "A.jpg", "B.jpg")
    assert [record.image for record in read_table(tmp_path, strict=False).records] == ["B.jpg"]
    with pytest.raises(DataError, match=r"m.csv, line 3: a second row for 'A', with another lesion .the first: m.csv"):
        read_table(tmp_path)
    with pytest.raises(DataError, match=r"m.csv, line 3: a second row for 'A'"):
        read_rows([tmp_path / "m.csv", tmp_path / "gt.csv"])


def files_of_two(folders: tuple[str, str], names: tuple[str, str], tmp_path: Path) -> tuple[LesionTable, LesionTable]:
    """What is read of two patients whose files have one stem and different content, and of the first one alone."""
    tables = []
    for count in (2, 1):
        root = tmp_path / str(count)
        lines = []
        for patient in range(count):
            path = root / folders[patient] / "x.jpg"
            path.parent.mkdir(parents=True)
            path.write_bytes(bytes([patient]))
            lines.append(f"{names[patient]},0,P{patient},A")
        write(root / "t.csv", "image,target,patient_id,source", *lines)
        tables.append(read_table(root, strict=False))
    return tables[0], tables[1]


@pytest.mark.parametrize(
    ("folders", "names"),
    [(("P0", "P1"), ("x", "x")), (("P0", "P1"), ("x.jpg", "x.jpg")), (("a", "b"), ("a/x", "b/x"))],
)
def test_a_file_of_the_same_name_in_another_patients_folder_changes_nothing(folders, names, tmp_path):
    both, alone = files_of_two(folders, names, tmp_path)
    assert [record for record in both.records if record.patient_id == "a:p0"] == list(alone.records)
    assert len(both.records) == 2


def test_a_name_that_fits_files_of_two_is_left_out_and_told(tmp_path):
    both, alone = files_of_two(("a", "b"), ("x", "x"), tmp_path)
    assert (len(both.records), len(alone.records)) == (0, 1)
    assert [(left.cause, "a/x.jpg, b/x.jpg" in left.reason) for left in both.left_out] == [("cannot be used", True)] * 2
    with pytest.raises(DataError, match=r"t.csv, line 3: a second row for 'x', with another patient"):
        read_table(tmp_path / "2")
    write(tmp_path / "2/t.csv", "image,target,patient_id,source", "x,0,P1,A")
    with pytest.raises(DataError, match=r"t.csv, line 2: 'x' fits 2 files of different content .a/x.jpg, b/x.jpg."):
        read_table(tmp_path / "2")
