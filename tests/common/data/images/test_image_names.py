"""Names of images: ids without folders and suffixes, one by one and many at once."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.images.image_names import (
    Names,
    composed,
    folder_of,
    one_text,
    stem_of,
    stems_of,
    without_suffix,
    without_suffixes,
)

NAMES = st.lists(
    st.tuples(
        st.sampled_from(["", "a/", "a/b/"]),
        st.text("ab.0_", min_size=1, max_size=4),
        st.sampled_from(["", "_downsampled"]),
        st.sampled_from([".jpg", ".JPG", ".jpeg", ".png", ".dcm", ".txt", ""]),
    ).map("".join)
)


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("a/b/ISIC_1.jpg", "ISIC_1"),
        ("ISIC_1.JPEG", "ISIC_1"),
        ("ISIC_1_downsampled.jpg", "ISIC_1"),
        ("1.2.840.dcm", "1.2.840"),
        ("1.2.840", "1.2.840"),
        ("notes.txt", "notes.txt"),
        ("archive.tar.png", "archive.tar"),
    ],
)
def test_stems(path: str, stem: str) -> None:
    assert stem_of(path) == stem


@settings(deadline=None, max_examples=25)
@given(NAMES)
def test_many_at_once_are_as_one_by_one(paths: list[str]) -> None:
    assert list(stems_of(paths)) == [stem_of(path) for path in paths]
    assert list(without_suffixes(paths)) == [without_suffix(path) for path in paths]


@settings(deadline=None, max_examples=25)
@given(NAMES)
def test_all_of_the_same_suffix_are_as_one_by_one(paths: list[str]) -> None:
    jpegs = [f"{path}.jpg" for path in paths]
    assert list(stems_of(jpegs)) == [stem_of(path) for path in jpegs]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9).map(str))))
def test_names_have_their_images_in_order(pairs: list[tuple[str, str]]) -> None:
    names = Names([name for name, _ in pairs], [image for _, image in pairs])
    for name in "abcd":
        assert list(names.get(name)) == [image for other, image in pairs if other == name]
    several = len({name for name, _ in pairs}) < len(pairs)
    assert dict(names.alone) == ({} if several else dict(pairs))


def test_accents_are_composed_in_names_and_folders() -> None:
    apart = unicodedata.normalize("NFD", "Läsion/é.jpg")
    assert composed(apart) == "Läsion/é.jpg"
    assert folder_of(apart) == "Läsion"
    assert folder_of("x.jpg") == ""


def test_one_text_parts_names_by_what_none_can_hold() -> None:
    assert one_text(["a", "b"]) == "a\0b\0"
