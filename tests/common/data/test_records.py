import csv
import tempfile
from collections import defaultdict
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.identity import normal_id, scoped_id
from melfed.common.data.records import (
    LesionRecord,
    group_ids,
    group_kind,
    read_table,
    select_image_types,
    select_sources,
)
from melfed.common.data.vocabulary.sites import SITES
from melfed.common.errors import DataError
from tests.common.lesions import one_line, record, touch, write

HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset"
ISIC2019 = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def test_images_are_found_by_id_anywhere(tmp_path):
    write(
        tmp_path / "tables/deep/gt.csv",
        ISIC2019,
        "A_downsampled,1,0,0,0,0,0,0,0,0",
        "B,0,1,0,0,0,0,0,0,0",
        "C,0,1,0,0,0,0,0,0,0",
    )
    write(tmp_path / "other.csv", "pixel1,label", "1,2")
    write(tmp_path / "far/too/deep/down.csv", "image,target", "A,0")
    touch(
        tmp_path,
        "x/A_downsampled.JPG",
        "y/z/B.png",
        "extra/B.jpeg",
        "extra/D.tif",
        "B_superpixels.png",
        "B_segmentation.png",
        ".A.jpg",
        "notes.txt",
    )
    table = read_table(tmp_path)
    assert table.layout == "ISIC 2019"
    assert [(r.image, r.target) for r in table.records] == [("extra/B.jpeg", 0), ("x/A_downsampled.JPG", 1)]
    assert table.missing == ("C",)
    assert table.unlisted == ("extra/D.tif", "y/z/B.png")


def test_melfed_tables_below_the_root_name_their_clinic(tmp_path):
    for clinic in ("north", "south"):
        write(tmp_path / clinic / "metadata.csv", "image,target", "images/1.png,0", "2,1")
        touch(tmp_path, f"{clinic}/images/1.png", f"{clinic}/images/2.webp")
    table = read_table(tmp_path)
    assert [(r.image, r.source, r.target) for r in table.records] == [
        ("north/images/1.png", "north", 0),
        ("north/images/2.webp", "north", 1),
        ("south/images/1.png", "south", 0),
        ("south/images/2.webp", "south", 1),
    ]


def test_two_names_of_one_file_are_two_rows_for_it(tmp_path):
    write(tmp_path / "t.csv", "image,target", "images/1.png,0", "1,0")
    touch(tmp_path, "images/1.png")
    with pytest.raises(DataError, match=r"t.csv, line 3: a second row for '1' .the first: t.csv, line 2"):
        read_table(tmp_path)


@pytest.mark.parametrize("path", ["../b.jpg", "/etc/b.jpg", "a/../../b.jpg", "..\\b.jpg", "C:\\b.jpg"])
def test_paths_out_of_the_folder_are_refused(tmp_path, path):
    touch(tmp_path, "data/a.jpg", "b.jpg")
    write(tmp_path / "data/t.csv", "image,target", "a.jpg,0", f"{path},1")
    with pytest.raises(DataError, match=r"t.csv, line 3: .* leaves the data folder") as error:
        read_table(tmp_path / "data")
    one_line(error)


@pytest.mark.parametrize("name", ["b.jpg", "b", "linked/b.jpg"])
def test_links_out_of_the_folder_are_refused(tmp_path, name):
    touch(tmp_path, "data/a.jpg", "outside/b.jpg")
    link = tmp_path / "data" / ("linked" if "/" in name else "b.jpg")
    link.symlink_to(tmp_path / "outside" / ("" if "/" in name else "b.jpg"))
    write(tmp_path / "data/t.csv", "image,target", "a.jpg,0", f"{name},1")
    with pytest.raises(DataError, match=r"line 3: .* is a link out of the data folder"):
        read_table(tmp_path / "data")


def test_links_within_the_folder_and_a_linked_folder_itself_are_fine(tmp_path):
    touch(tmp_path, "data/a.jpg")
    (tmp_path / "data/b.jpg").symlink_to("a.jpg")
    (tmp_path / "data/c.jpg").symlink_to("c.jpg")  # leads nowhere: the image store will name it
    write(tmp_path / "data/t.csv", "image,target", "a.jpg,0", "b.jpg,1", "c.jpg,1")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(read_table(tmp_path / "link").records) == 3


def test_missing_folder_and_missing_images(tmp_path):
    with pytest.raises(DataError, match="gone: no such folder"):
        read_table(tmp_path / "gone")
    with pytest.raises(DataError, match="no table at all"):
        read_table(tmp_path)
    write(tmp_path / "t.csv", "image,target", "a.jpg,0")
    touch(tmp_path, "b.jpg")
    with pytest.raises(DataError, match=r"1 rows .melfed. and no image file for any of them: 'a.jpg'") as error:
        read_table(tmp_path)
    one_line(error)


def test_two_layouts_are_refused_where_both_have_images(tmp_path):
    ham = write(tmp_path / "h.csv", HAM, "L,A,mel,histo,80,male,scalp,vidir_modern")
    write(tmp_path / "i.csv", "image_id,melanoma", "B,1")
    touch(tmp_path, "A.jpg")
    assert read_table(tmp_path).layout == "HAM10000"  # no row of the other has an image here
    touch(tmp_path, "B.jpg")
    with pytest.raises(DataError, match=r"h.csv is HAM10000; i.csv is ISIC 2017"):
        read_table(tmp_path)
    ham.unlink()
    assert read_table(tmp_path).layout == "ISIC 2017"


IDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5).map(
    lambda t: f"p{t}z"
)
KNOWN = [(1, "mel"), (0, "nv"), (0, "scc"), (1, None), (0, None)]


def read_back(record: LesionRecord) -> LesionRecord:
    """What a record is once it was written into melfed's own table and read from there."""
    patient = scoped_id(record.source, normal_id(record.patient_id)) if record.patient_id else None
    lesion = scoped_id(patient or record.source, normal_id(record.lesion_id)) if record.lesion_id else None
    diagnosis = record.diagnosis or ("mel" if record.target else None)
    return replace(record, patient_id=patient, lesion_id=lesion, diagnosis=diagnosis)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.builds(
            record,
            patient_id=st.none() | IDS,
            lesion_id=st.none() | IDS,
            dup_group=st.none() | IDS,
            age=st.none() | st.floats(0, 110).map(lambda age: round(age, 2)),
            sex=st.sampled_from(["male", "female", None]),
            site=st.sampled_from([*SITES, None]),
            source=IDS,
        ),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.sampled_from(KNOWN), min_size=6, max_size=6),
)
def test_own_tables_read_back_as_written(records, known):
    records = [
        replace(r, image=f"images/{i}.png", target=target, diagnosis=diagnosis)
        for i, (r, (target, diagnosis)) in enumerate(zip(records, known, strict=False))
    ]
    columns = ("image", "target", "diagnosis", "patient_id", "lesion_id", "dup_group", "age", "sex", "site", "source")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        touch(root, *(r.image for r in records))
        with (root / "any.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows([getattr(r, column) for column in columns] for r in records)
        assert list(read_table(root, strict=False).records) == [
            replace(read_back(r), dup_group=None if r.patient_id or r.lesion_id else r.dup_group) for r in records
        ]
        if all(r.patient_id or not r.lesion_id for r in records):  # strictly, a lesion's one patient is told to it
            assert list(read_table(root).records) == [read_back(r) for r in records]


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ("all", ["HAM_a", "HAM_b", "MSK", "Uni [X], Wien"]),
        (["MSK"], ["MSK"]),
        (["HAM_*"], ["HAM_a", "HAM_b"]),
        (["!HAM_*"], ["MSK", "Uni [X], Wien"]),
        (["!HAM_b", "HAM_*"], ["HAM_a"]),
        (["Uni [X], Wien", "M?K"], ["MSK", "Uni [X], Wien"]),
        ([], ["HAM_a", "HAM_b", "MSK", "Uni [X], Wien"]),
    ],
)
def test_select_sources(sources, expected):
    records = [record(f"{i}.jpg", source=name) for i, name in enumerate(["HAM_a", "HAM_b", "MSK", "Uni [X], Wien"])]
    assert [r.source for r in select_sources(records, sources)] == expected


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["BCN"], "source 'BCN' matches none of the data; its sources are HAM_a, MSK"),
        (["MSK", "!ham_*"], "source 'ham_.' matches none"),
        (["MSK", "!M*"], "nothing is left"),
    ],
)
def test_select_sources_refuses(sources, message):
    with pytest.raises(DataError, match=message):
        select_sources([record(source="HAM_a"), record(source="MSK")], sources)


FEW = st.none() | st.sampled_from(["1", "2", "3", "4"])  # the same text as patient, lesion and duplicate means nothing
TABLES = st.lists(st.builds(record, patient_id=FEW, lesion_id=FEW, dup_group=FEW), max_size=12).map(
    lambda records: [replace(r, image=f"{i}.jpg") for i, r in enumerate(records)]
)


def tied(a: LesionRecord, b: LesionRecord) -> bool:
    names = ("patient_id", "lesion_id", "dup_group")
    return any(getattr(a, name) is not None and getattr(a, name) == getattr(b, name) for name in names)


def reachable(records: list[LesionRecord], start: int) -> set[int]:
    found, waiting = {start}, [start]
    while waiting:
        here = waiting.pop()
        near = {i for i in range(len(records)) if i not in found and tied(records[here], records[i])}
        found |= near
        waiting.extend(near)
    return found


@settings(deadline=None, max_examples=200)
@given(TABLES, st.randoms(use_true_random=False))
def test_groups_hold_together_what_belongs_together_and_nothing_else(records, random):
    ids = group_ids(records)
    for i in range(len(records)):
        assert {j for j, other in enumerate(ids) if other == ids[i]} == reachable(records, i)
    shuffled = random.sample(range(len(records)), len(records))
    assert group_ids([records[i] for i in shuffled]) == [ids[i] for i in shuffled]


def test_group_names():
    records = [
        record("a.jpg", patient_id="IP_2", lesion_id="L1"),
        record("b.jpg", patient_id="IP_1", lesion_id="L1"),
        record("c.jpg", lesion_id="L2"),
        record("d.jpg", dup_group="D", lesion_id="L2"),
        record("e.jpg", dup_group="E"),
        record("f.jpg"),
    ]
    assert group_ids(records) == ["patient:IP_1"] * 2 + ["lesion:L2"] * 2 + ["duplicates:E", "image:f.jpg"]


def test_groups_of_a_long_chain_stay_cheap():
    records = [
        record(str(i), lesion_id=f"L{i}", patient_id=f"P{i // 2}", dup_group=f"D{(i + 1) // 2}") for i in range(20_000)
    ]
    sizes: dict[str, int] = defaultdict(int)
    for name in group_ids(records):
        sizes[name] += 1
    assert dict(sizes) == {"patient:P0": 20_000}


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record(patient_id="p"), record(patient_id="q", lesion_id="l")], "patient"),
        ([record(lesion_id="l")], "lesion"),
        ([record(dup_group="d")], "duplicate group"),
        ([record()], "image"),
        ([record(patient_id="p"), record(lesion_id="l")], "patient where known, else lesion"),
        (
            [record(), record(dup_group="d"), record(lesion_id="l")],
            "lesion where known, else duplicate group, else image",
        ),
        ([], "image"),
    ],
)
def test_group_kind(records, words):
    assert group_kind(records) == words


@pytest.mark.parametrize(
    ("types", "images"), [("all", "abc"), (("dermoscopic",), "ac"), (("clinical",), "bc"), (("rcm",), "c")]
)
def test_select_image_types(types, images):
    kinds = {"a": "dermoscopic", "b": "clinical", "c": None}
    records = [record(image, image_type=kind) for image, kind in kinds.items()]
    assert "".join(r.image for r in select_image_types(records, types)) == images


def test_records_of_a_table_are_like_any_others(tmp_path):
    write(tmp_path / "t.csv", "image,target", "a.jpg,1")
    touch(tmp_path, "a.jpg")
    (made,) = read_table(tmp_path).records
    same = LesionRecord(**{item.name: getattr(made, item.name) for item in fields(made)})
    assert (type(made), made, hash(made)) == (LesionRecord, same, hash(same))
    assert replace(made, target=0).target == 0
    with pytest.raises(FrozenInstanceError):
        made.target = 0
