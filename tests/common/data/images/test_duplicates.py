import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from melfed.common.data.images import duplicates
from melfed.common.data.images.duplicates import (
    DuplicateGroup,
    count_duplicates,
    find_duplicates,
    signature,
    with_duplicates,
)
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import group_ids
from tests.common.lesions import record as lesion

NAMES = ("a.jpg", "b.jpg", "c.jpg")


def photograph(seed: int) -> Image.Image:
    """A picture with structure of its own: smoothed grains."""
    grains = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(grains).resize((160, 120), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def store(folder: Path, files: dict[str, bytes]) -> ImageStore:
    (folder / "data").mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / "data" / name).write_bytes(content)
    return ImageStore.build(folder / "cache", folder / "data", sorted(files), 64)


def variants() -> dict[str, Image.Image]:
    original = photograph(1)
    warm = Image.fromarray(np.clip(np.asarray(original) * [1.1, 1.0, 0.8] + 5, 0, 255).astype(np.uint8))
    return {"resized": original.resize((500, 375)), "coloured": warm, "grey": original.convert("L")}


def test_equal_bytes_are_one_picture(tmp_path: Path) -> None:
    same = jpeg(photograph(1))
    found = store(tmp_path, {"a.jpg": same, "b.jpg": jpeg(photograph(2)), "c.jpg": same}).duplicates()
    assert found == (DuplicateGroup(("a.jpg", "c.jpg"), identical=True),)


@pytest.mark.parametrize("variant", [*variants(), "saved anew"])
def test_the_same_photograph_saved_anew(tmp_path: Path, variant: str) -> None:
    again = variants().get(variant, photograph(1))
    files = {"a.jpg": jpeg(photograph(1)), "b.jpg": jpeg(photograph(2)), "c.jpg": jpeg(again, quality=60)}
    assert store(tmp_path, files).duplicates() == (DuplicateGroup(("a.jpg", "c.jpg"), identical=False),)


def test_other_photographs_are_others(tmp_path: Path) -> None:
    assert store(tmp_path, {f"{seed}.jpg": jpeg(photograph(seed)) for seed in range(40)}).duplicates() == ()


def test_pictures_that_show_nothing_are_compared_by_their_bytes_alone(tmp_path: Path) -> None:
    flat = {f"{grey}.png": jpeg(Image.new("RGB", (64, 64), (grey, grey, grey))) for grey in (50, 51, 200)}
    assert store(tmp_path, flat).duplicates() == ()
    assert len(store(tmp_path, flat | {"copy.png": flat["50.png"]}).duplicates()) == 1


def test_signatures_are_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a.jpg": jpeg(photograph(1)), "b.jpg": jpeg(photograph(1), quality=50)}
    first = store(tmp_path, files).duplicates()
    monkeypatch.setattr("melfed.common.data.images.store.signature", lambda _: pytest.fail("computed again"))
    assert store(tmp_path, files).duplicates() == first


def test_bands_find_what_every_pair_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = {
        f"{seed}{kind}": image
        for seed in range(20)
        for kind, image in (("", photograph(seed)), ("r", photograph(seed).resize((90, 68))))
    }
    signatures = {name: signature(np.asarray(image.resize((64, 64)))) for name, image in pixels.items()}
    every = find_duplicates({}, signatures)
    assert len(every) == 20
    monkeypatch.setattr(duplicates, "ALL_PAIRS", 0)
    assert find_duplicates({}, signatures) == every


@given(order=st.permutations(list(NAMES)))
def test_no_order_changes_a_group(order: list[str]) -> None:
    digests = dict.fromkeys(NAMES, "same") | {"b.jpg": "other"}
    assert find_duplicates({name: digests[name] for name in order}, {}) == (
        DuplicateGroup(("a.jpg", "c.jpg"), identical=True),
    )


GROUPS = (DuplicateGroup(("a.jpg", "b.jpg"), identical=True), DuplicateGroup(("c.jpg", "x.jpg"), identical=False))


def test_counts() -> None:
    records = [
        lesion("a.jpg", target=1, patient_id="p", source="one"),
        lesion("b.jpg", target=0, patient_id="q", source="two"),
        lesion("c.jpg", patient_id="p", source="one"),
    ]
    counts = count_duplicates(records, GROUPS)
    assert (counts.groups, counts.images, counts.identical) == (1, 2, 1)
    assert (counts.across_patients, counts.across_sources, counts.across_targets) == (1, 1, 1)
    assert counts.words() == (
        "2 images are 1 picture under several names (1 of equal bytes, 1 of several patients, 1 of several sources, 1 "
        "with different targets)"
    )
    assert count_duplicates(records[1:], GROUPS).groups == 0
    assert count_duplicates(records[1:], GROUPS).words() is None


def test_no_split_tears_a_found_duplicate() -> None:
    records = [lesion(name, patient_id=name) for name in (*NAMES, "d.jpg")]
    joined = with_duplicates(records, GROUPS)
    groups = group_ids(joined)
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3
    assert [record.patient_id for record in joined] == [record.patient_id for record in records]


def test_found_duplicates_join_those_that_the_table_names() -> None:
    records = [
        lesion("a.jpg", dup_group="t1"),
        lesion("b.jpg", dup_group="t2"),
        lesion("c.jpg", dup_group="t2"),
        lesion("d.jpg", dup_group="t3"),
        lesion("e.jpg"),
    ]
    assert [record.dup_group for record in with_duplicates(records, GROUPS)] == ["t1", "t1", "t1", "t3", None]
    # A lone name of the table stays.
    assert with_duplicates(records[3:], ()) == tuple(records[3:])


def test_known_pairs_of_isic(shared: Path, tmp_path: Path) -> None:
    pairs = {
        *(("ISIC_0012127", "ISIC_0012970"), ("ISIC_0012290", "ISIC_0013594"), ("ISIC_0012672", "ISIC_0012673")),
        *(("ISIC_0012887", "ISIC_0012989"), ("ISIC_0013109", "ISIC_0013163"), ("ISIC_0015986", "ISIC_0015987")),
    }
    root = shared / "data" / "isic"
    others = [f"images/ISIC_00129{n:02}.jpg" for n in range(60) if (root / f"images/ISIC_00129{n:02}.jpg").exists()]
    images = sorted({f"images/{name}.jpg" for pair in pairs for name in pair} | set(others))
    found = ImageStore.build(tmp_path / "cache", root, images, 96).duplicates()
    assert {tuple(Path(image).stem for image in group.images) for group in found} == pairs
