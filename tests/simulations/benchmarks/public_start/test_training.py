"""How starts are trained: what is left out, what is drawn, and that a kept start is only used for what it is of."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from melfed.common.data.dataset import Images
from melfed.common.data.images.store import ImageStore
from melfed.common.data.records import LesionRecord
from melfed.common.errors import DataError, StudyError
from melfed.common.study.protocol import DataSpec, StudyProtocol
from melfed.simulations.benchmarks.public_start import training
from melfed.simulations.benchmarks.public_start.training import (
    Balance,
    Renamed,
    StartWay,
    drawn,
    kept_start,
    public_images,
    renamed,
    shares,
    sides,
)
from melfed.simulations.partition.virtual_clinics import VirtualClinics
from tests.simulations.benchmarks.public_start.records import of_sources, record


def images_of(clinics: VirtualClinics) -> Images:
    place = clinics.clinics[0]
    names = [each.image for each in clinics.records]
    return Images(clinics.records, ImageStore.open(place.cache, place.root, names, place.image_size))


def study_of(**model: object) -> StudyProtocol:
    content = {
        "name": "public",
        "data": {"image_size": 32},
        "model": {"backbone": "simple_cnn", "pretrained": False, **model},
        "training": {"batch_size": 16},
        "federation": {"mode": "central", "rounds": 1},
    }
    return StudyProtocol.model_validate(content)


@pytest.mark.parametrize("text", ["", "a b", "x:balance=sources", "x:balance=source,balance=class"])
def test_a_start_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="write NAME"):
        StartWay.read(text)


def test_a_start_without_items_is_plain() -> None:
    assert StartWay.read("plain") == StartWay("plain")


@pytest.mark.parametrize("text", ["A=0:1", "A/B=1", "A/B=x:2"])
def test_a_batch_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match="write SOURCE/NAME"):
        Renamed.read(text)


def test_a_batch_is_of_its_source_and_numbers_alone() -> None:
    records = [
        record("images/ISIC_0000100.jpg", "other", 0),
        record("images/ISIC_0000101.jpg", "other", 0),
        record("images/ISIC_0000100.png", "MSK", 0),
        record("images/mole.jpg", "other", 0),
    ]
    found = renamed(records, [Renamed("other", "early", 0, 100), Renamed("other", "late", 100, 200)])
    assert [each.source for each in found] == ["early", "late", "MSK", "other"]


def test_nobody_of_the_source_that_is_left_out_is_learnt_from(phantom_clinics: VirtualClinics) -> None:
    images = images_of(phantom_clinics)
    records = list(images.records)
    source = records[0].source
    stranger = next(index for index, each in enumerate(records) if each.source != source)
    # One lesion with pictures in two sources.
    for index in (0, stranger):
        records[index] = record(records[index].image, records[index].source, records[index].target, "both")
    trained, left_out = sides(Images(tuple(records), images.store), source, 0)
    assert left_out.tolist() == [each.source == source for each in records]
    assert not (trained & left_out).any()
    assert not trained[stranger]
    others = ~left_out
    assert 0.75 < trained[others].mean() < 0.97, "a tenth is kept apart"


def sums(records: list[LesionRecord], balance: Balance) -> dict[tuple[str, int], float]:
    found: Counter[tuple[str, int]] = Counter()
    for each, share in zip(records, shares(records, balance), strict=True):
        found[each.source, each.target] += share
    return dict(found)


def test_shares_are_equal_for_what_is_balanced() -> None:
    records = of_sources([("A", 30, 10), ("B", 10, 0)])
    assert sums(records, "none") == pytest.approx({("A", 0): 0.6, ("A", 1): 0.2, ("B", 0): 0.2})
    assert sums(records, "source") == pytest.approx({("A", 0): 0.375, ("A", 1): 0.125, ("B", 0): 0.5})
    assert sums(records, "class") == pytest.approx({("A", 0): 0.375, ("A", 1): 0.5, ("B", 0): 0.125})
    assert sums(records, "both") == pytest.approx({("A", 0): 0.25, ("A", 1): 0.25, ("B", 0): 0.5})


def test_images_are_drawn_by_their_shares(phantom_clinics: VirtualClinics) -> None:
    images = images_of(phantom_clinics)
    assert drawn(images, "none", 0) is images
    chosen = drawn(images, "class", 0)
    assert len(chosen) == len(images)
    assert abs(chosen.targets.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(images))
    assert [each.image for each in drawn(images, "class", 1).records] != [each.image for each in chosen.records]


def test_public_images_have_the_sources_that_they_are_taken_for(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("melfed.common.data.images.store.default_cache", lambda: tmp_path / "cache")
    study = study_of().with_changes("partition", minimum_images=4)
    images = public_images(study, phantom, [])
    assert [each.image for each in images.records] == sorted(each.image for each in images.records)
    assert len({each.source for each in images.records}) == 3
    assert images.pixels([0]).shape == (1, 32, 32, 3)


def test_a_start_learns_and_is_kept(
    phantom_clinics: VirtualClinics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, study = images_of(phantom_clinics), study_of()
    source = images.records[0].source
    path = tmp_path / "starts" / "one.npz"
    start = kept_start(path, study, images, source, "source")
    assert start.pooled.shape[0] == len(start.scores) == len(images)
    assert np.ptp(start.scores) > 0, "a head at zero has learnt something"
    monkeypatch.setattr(training, "trained_start", lambda *_: pytest.fail("trained again"))
    again = kept_start(path, study, images, source, "source")
    for name in ("pooled", "scores", "trained", "left_out"):
        np.testing.assert_array_equal(getattr(again, name), getattr(start, name))
    fewer = Images(images.records[1:], images.store)
    others = study.with_sections({"data": DataSpec(image_size=48).model_dump()})
    for changed in ((study, fewer, "source"), (others, images, "source"), (study, images, "both")):
        with pytest.raises(DataError, match="of other images, or of another way"):
            kept_start(path, changed[0], changed[1], source, changed[2])
