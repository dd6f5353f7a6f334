"""What was understood of a folder, for its own people."""

from pathlib import Path

import pytest

from melfed.common.data.decisions import UnknownWords
from melfed.common.data.records import read_table
from melfed.common.data.tables.rows import ReadOptions
from melfed.common.data.understood import Understanding, read_to_show, sections, understand
from melfed.common.data.vocabulary.diagnoses import checked_mapping
from melfed.common.errors import DataError
from tests.common.lesions import touch, write

COLUMNS = "image,diagnosis,patient_id,lesion_id,source,site,image_type"


def folder(root: Path, *rows: str, columns: str = COLUMNS) -> Path:
    write(root / "table.csv", columns, *(f"{number}.png,{row}" for number, row in enumerate(rows)))
    touch(root, *(f"{number}.png" for number in range(len(rows))))
    return root


def understood(root: Path, options: ReadOptions | None = None) -> Understanding:
    table, unknown = read_to_show(root, options=options)
    return understand(table, unknown=unknown)


def texts(found: Understanding) -> dict[str, str]:
    return {section.title: "\n".join(" | ".join(row) for row in section.rows) for section in sections(found)}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return folder(
        tmp_path,
        "malignant melanoma,1,1,A,back,dermoscopic",
        "Naevus,1.0,1,A,moon,dermoscopic",
        "nevus,2,1,A,back,clinical: close-up",
        "melanoma?,2,2,B,arm,dermoscopic",
        "Klasse 7,3,1,B,arm,dermoscopic",
        "Klasse 7,anonymous,1,B,arm,dermoscopic",
        "bcc,9,1,B,arm,dermoscopic",
        "bcc,9,1,B,arm,dermoscopic",
        "bcc,9,1,B,arm,dermoscopic",
    )


def test_columns_and_words(mixed: Path) -> None:
    found = understood(mixed)
    assert {(use.column, use.meaning) for use in found.columns} >= {("diagnosis", "diagnosis"), ("site", "site")}
    words = {use.word: (use.code, use.reading, use.rows) for use in found.words}
    assert words["malignant melanoma"] == ("mel", "known", 1)
    assert words["melanoma?"] == (None, "undecided", 1)
    assert words["Klasse 7"] == (None, "unknown", 2)
    assert found.unknown_words == {"Klasse 7": 2}
    assert found.unread == {"site": {"moon": 1}}


def test_patients_by_source_and_whose_share_is_largest(mixed: Path) -> None:
    first, second = understood(mixed).patients
    assert (first.source, first.images, first.patients, first.largest) == ("A", 3, 2, pytest.approx(2 / 3))
    assert (second.source, second.images, second.patients, second.largest) == ("B", 3, 1, 1.0)


def test_ids_are_counted_and_their_spellings_shown_to_their_own_people(mixed: Path) -> None:
    found = understood(mixed)
    assert found.spellings == [["1", "1.0"]]
    assert (found.ids, found.ids_over_sources, found.respelled) == ("scoped", 1, 1)
    hidden = found.without_names()
    assert (hidden.respelled, hidden.spellings) == (1, [])
    assert [count.examples for count in hidden.left_out] == [[] for _ in hidden.left_out]


def test_what_is_left_out_is_said_with_its_reason(mixed: Path) -> None:
    counts = {count.cause: count for count in understood(mixed).left_out}
    assert {cause: count.rows for cause, count in counts.items()} == {"unknown word": 2, "undecided": 1}
    assert counts["unknown word"].examples[0] == (
        "4.png (table.csv, line 6): diagnosis 'Klasse 7' is not in the vocabulary"
    )


def test_all_of_it_is_shown_as_tables(mixed: Path) -> None:
    shown = texts(understood(mixed))
    assert "Klasse 7 | NOT KNOWN: map it | 2" in shown["diagnoses"]
    assert "malignant melanoma | mel | 1" in shown["diagnoses"]
    assert "melanoma? | undecided | 1" in shown["diagnoses"]
    assert "1 = 1.0" in shown["ids"]
    assert "taken for other people (ids: scoped)" in shown["ids"]
    assert "'moon' 1" in shown["not understood"]
    assert shown["patients"].splitlines()[0] == "A | 3 | 2 | 0 | 66.7% of its images"
    assert "dermoscopic" in shown["pictures"]
    assert "improbable" not in shown


def test_a_strict_reading_refuses_and_names_the_words_with_counts(mixed: Path) -> None:
    with pytest.raises(UnknownWords, match=r"1 diagnoses are not in the vocabulary: 'Klasse 7' \(2\); map each"):
        read_table(mixed)
    table = read_table(mixed, options=ReadOptions(checked_mapping({"KLASSE 7": "mel"})))
    assert [record.target for record in table.records if record.image in ("4.png", "5.png")] == [1, 1]
    left = read_table(mixed, options=ReadOptions(checked_mapping({"Klasse 7": "leave_out"})))
    assert set(left.undiagnosed) == {"3.png", "4.png", "5.png"}


def test_where_no_word_is_known_the_words_are_still_named(tmp_path: Path) -> None:
    folder(tmp_path, "foo,1", "bar,2", columns="image,diagnosis,patient_id")
    with pytest.raises(UnknownWords, match="'foo' \\(1\\), 'bar' \\(1\\)"):
        read_to_show(tmp_path)


def test_other_faults_are_refused_as_ever(tmp_path: Path) -> None:
    folder(tmp_path, "2,mel", "foo,1", columns="image,target,diagnosis")
    with pytest.raises(DataError, match="only 0 or 1"):
        read_to_show(tmp_path)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([f"{number % 2},P1," for number in range(12)], "all 12 images are of one patient"),
        ([f"0,P{number}," for number in range(12)], "none of 12 images show a melanoma"),
        ([f"1,P{number}," for number in range(12)], "all of 12 images show a melanoma"),
    ],
)
def test_an_improbable_reading(tmp_path: Path, rows: list[str], reason: str) -> None:
    folder(tmp_path, *rows, columns="image,target,patient_id,lesion_id")
    (said,) = understood(tmp_path).improbable
    assert said.startswith(reason)


def test_lesions_of_several_patients_are_improbable(tmp_path: Path) -> None:
    rows = [f"ISIC_000000{number},Benign,Nevus,IL_{number % 3},IP_{number}" for number in range(9)]
    rows.append("ISIC_0000009,Malignant,Melanoma in situ,IL_9,IP_9")
    write(tmp_path / "t.csv", "isic_id,diagnosis_1,diagnosis_3,lesion_id,patient_id", *rows)
    touch(tmp_path, *(f"ISIC_000000{number}.jpg" for number in range(10)))
    (said,) = understood(tmp_path).improbable
    assert said.startswith("3 of 4 lesions are of several patients")


def test_few_images_are_nothing_to_wonder_at(tmp_path: Path) -> None:
    folder(tmp_path, "0,P1", "0,P1", columns="image,target,patient_id")
    assert understood(tmp_path).improbable == []
