"""The phantom: the same bytes from the same seed, classes that overlap, and a folder that says it is synthetic."""

import dataclasses
import hashlib
import multiprocessing
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from melfed.common.data.identity import scoped_id
from melfed.common.data.records import read_table
from melfed.common.data.vocabulary.sites import SITES
from melfed.common.errors import DataError, StorageError
from melfed.simulations.phantom import dataset as phantom
from melfed.simulations.phantom.dataset import (
    PhantomSpec,
    cameras,
    plan_images,
    render_image,
    sample_traits,
    write_phantom,
)

TRAITS = [field.name for field in dataclasses.fields(phantom.LesionTraits) if field.name != "structure"]
SPEC = PhantomSpec(clinics=3, images=48, size=48, seed=11)


def _digest(spec: PhantomSpec, place: int) -> str:
    return hashlib.sha256(render_image(plan_images(spec)[place], spec.size).tobytes()).hexdigest()


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _lesions(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    melanoma = np.arange(count) % 4 == 0
    lesions = [sample_traits(rng, bool(m), rng.uniform(), rng.uniform()) for m in melanoma]
    return np.array([[getattr(lesion, trait) for trait in TRAITS] for lesion in lesions]), melanoma


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "data", SPEC)


# --- determinism ---


def test_same_seed_same_folder_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    again = write_phantom(tmp_path / "other_name", SPEC)
    assert _files(again) == _files(folder)


def test_pixels_depend_neither_on_order_nor_on_process() -> None:
    places = list(range(0, SPEC.images, 8))
    forward = [_digest(SPEC, place) for place in places]
    backward = [_digest(SPEC, place) for place in reversed(places)][::-1]
    with multiprocessing.get_context("forkserver").Pool(2) as pool:
        elsewhere = pool.starmap(_digest, [(SPEC, place) for place in places])
    assert forward == backward == elsewhere
    assert len(set(forward)) == len(places)


def test_another_seed_other_pixels() -> None:
    assert _digest(SPEC, 0) != _digest(dataclasses.replace(SPEC, seed=12), 0)


def test_size_changes_resolution_and_not_the_scene() -> None:
    image = next(i for i in plan_images(SPEC) if i.traits.hairiness < 0.2)
    small = Image.fromarray(render_image(image, 64)).resize((32, 32), Image.Resampling.BOX)
    large = Image.fromarray(render_image(image, 256)).resize((32, 32), Image.Resampling.BOX)
    a, b = (np.asarray(i, np.float64).mean(axis=2).ravel() for i in (small, large))
    assert np.corrcoef(a, b)[0, 1] > 0.97


# --- the plan: patients, clinics, classes ---


@settings(deadline=None, max_examples=40)
@given(
    clinics=st.integers(1, 6),
    images=st.integers(84, 400),
    rate=st.floats(0.05, 0.6),
    seed=st.integers(0, 2**32),
)
def test_patients_stay_whole(clinics: int, images: int, rate: float, seed: int) -> None:
    plan = plan_images(PhantomSpec(clinics, images, rate, seed=seed))
    assert len(plan) == len({image.name for image in plan}) == images
    by_patient = defaultdict(list)
    for image in plan:
        by_patient[image.patient_id].append(image)
    classes = {}
    for pictures in by_patient.values():
        assert len(pictures) <= 4
        assert len({(p.camera, p.age, p.sex, p.traits.melanin, p.traits.hairiness) for p in pictures}) == 1
        assert len({p.lesion_id for p in pictures if p.melanoma}) <= 1
        for picture in pictures:
            lesion = (picture.melanoma, picture.traits, picture.site, picture.patient_id)
            assert classes.setdefault(picture.lesion_id, lesion) == lesion
            assert picture.site in SITES


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5])
def test_melanoma_rate_is_about_as_asked_in_every_clinic(rate: float) -> None:
    plan = plan_images(PhantomSpec(4, 2000, rate))
    images = Counter(image.camera.name for image in plan)
    melanomas = Counter(image.camera.name for image in plan if image.melanoma)
    assert sum(melanomas.values()) / 2000 == pytest.approx(rate, abs=0.03)
    assert all(melanomas[name] / images[name] == pytest.approx(rate, abs=0.09) for name in images)
    assert [images[name] / 2000 for name in ("north", "south", "east", "west")] == [0.4, 0.3, 0.2, 0.1]


def test_cameras_differ_and_keep_their_place() -> None:
    four, five = cameras(("a", "b", "c", "d"), 3), cameras(("a", "b", "c", "d", "e"), 3)
    assert five[:4] == four
    assert len({camera.cast for camera in five}) == 5
    assert min(abs(a.cast[0] - b.cast[0]) for i, a in enumerate(four) for b in four[:i]) > 0.01


def test_number_of_photographs_and_lesion_label_do_not_tell() -> None:
    plan = plan_images(PhantomSpec(1, 6000))
    target = [image.melanoma for image in plan]
    label = [int(image.lesion_id[-1]) for image in plan]
    pictures = Counter(image.patient_id for image in plan)
    assert 0.45 < roc_auc_score(target, label) < 0.55
    assert 0.35 < roc_auc_score(target, [pictures[image.patient_id] for image in plan]) < 0.65
    assert 0.55 < roc_auc_score(target, [image.age for image in plan]) < 0.70


# --- the difficulty ---


def test_no_single_trait_gives_the_class_away() -> None:
    values, melanoma = _lesions(6000)
    auroc = {trait: roc_auc_score(melanoma, values[:, k]) for k, trait in enumerate(TRAITS)}
    assert all(0.2 < a < 0.8 for a in auroc.values()), auroc
    assert min(auroc[t] for t in ("radius", "asymmetry", "raggedness", "blue_grey", "white", "black")) > 0.6
    assert all(abs(auroc[t] - 0.5) < 0.04 for t in ("melanin", "hairiness")), auroc


def test_all_traits_together_tell_much_and_not_all() -> None:
    values, melanoma = _lesions(6000)
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    model = LogisticRegression(max_iter=200).fit(values[:3000], melanoma[:3000])
    assert 0.90 < roc_auc_score(melanoma[3000:], model.decision_function(values[3000:])) < 0.97


def test_plain_statistics_of_the_pixels_do_not_give_the_class_away() -> None:
    spec = PhantomSpec(4, 320, 0.4, size=48, seed=2)
    plan = plan_images(spec)
    pixels = np.stack([render_image(image, spec.size) for image in plan]).astype(np.float64)
    target = [image.melanoma for image in plan]
    deviation = pixels.std(axis=(1, 2, 3))
    assert deviation.min() > 4
    assert 60 < pixels.mean() < 200
    for statistic in (pixels.mean(axis=(1, 2, 3)), pixels[:, 12:36, 12:36].mean(axis=(1, 2, 3)), deviation):
        assert 0.25 < roc_auc_score(target, statistic) < 0.75


def test_the_same_lesion_looks_the_same_in_two_photographs() -> None:
    plan = plan_images(PhantomSpec(1, 300, size=48, seed=4))
    by_lesion = defaultdict(list)
    for image in plan:
        by_lesion[image.lesion_id].append(image)

    def colour(image: phantom.PhantomImage) -> np.ndarray:
        return render_image(image, 48)[18:30, 18:30].mean(axis=(0, 1), dtype=np.float64)

    pairs = [pictures[:2] for pictures in by_lesion.values() if len(pictures) > 1][:40]
    again = np.median([np.abs(colour(a) - colour(b)).mean() for a, b in pairs])
    other = np.median([np.abs(colour(a) - colour(c)).mean() for (a, _), (c, _) in pairwise(pairs)])
    assert again < 0.7 * other
    assert any((render_image(a, 48) != render_image(b, 48)).any() for a, b in pairs)


def test_rendering_is_quick() -> None:
    plan = plan_images(PhantomSpec(4, 40))
    start = time.process_time()
    for image in plan:
        render_image(image, 128)
    # 2,000 a minute are 30 ms each; the bound leaves room for a slow or busy machine.
    assert (time.process_time() - start) / len(plan) < 0.1


# --- the folder ---


def test_melfed_reads_the_folder(folder: Path) -> None:
    table = read_table(folder)
    assert (table.layout, len(table.records), table.missing, table.unlisted) == ("melfed", SPEC.images, (), ())
    plan = plan_images(SPEC)
    for record, image in zip(table.records, plan, strict=True):
        assert record.image == f"images/{image.name}"
        assert (record.target, record.diagnosis) == ((1, "mel") if image.melanoma else (0, "nv"))
        patient = scoped_id(record.source, image.patient_id)
        assert (record.patient_id, record.lesion_id) == (patient, scoped_id(patient, image.lesion_id))
        assert (record.age, record.sex, record.site) == (image.age, image.sex, image.site)
        assert record.source == f"phantom_{image.camera.name}"


def test_every_picture_says_synthetic(folder: Path) -> None:
    pictures = sorted((folder / "images").iterdir())
    assert len(pictures) == SPEC.images
    for path in pictures:
        assert "synthetic" in path.name
        with Image.open(path) as picture:
            assert b"synthetic" in picture.info["comment"]
            assert (picture.mode, picture.size) == ("RGB", (48, 48))
    assert "SYNTHETIC" in (folder / "SYNTHETIC.txt").read_text(encoding="utf-8")


def test_an_identical_folder_is_reused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(phantom, "render_image", lambda *_: pytest.fail("rendered again"))
    assert write_phantom(folder, SPEC) == folder
    named = dataclasses.replace(SPEC, clinics=("north", "south", "east"))
    assert write_phantom(folder, named) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_foreign_folder_is_refused_and_left_alone(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another spec"):
        write_phantom(folder, dataclasses.replace(SPEC, seed=99))
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="no phantom"):
        write_phantom(tmp_path, SPEC)
    with pytest.raises(DataError, match="no phantom"):
        write_phantom(tmp_path / "holiday.jpg", SPEC)
    assert _files(tmp_path) == {"holiday.jpg": b"x"}


def test_a_folder_that_lost_pictures_is_refused(tmp_path: Path) -> None:
    spec = PhantomSpec(1, 4, size=32)
    write_phantom(tmp_path / "data", spec)
    (tmp_path / "data/images/synthetic_000002.jpg").unlink()
    with pytest.raises(DataError, match="lost"):
        write_phantom(tmp_path / "data", spec)


def test_an_empty_folder_is_filled_and_progress_told(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_phantom(tmp_path, PhantomSpec(1, 5, size=32), lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]
    assert (tmp_path / "metadata.csv").is_file()


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "data", PhantomSpec(1, 6, size=32), interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match=r"data: .*No space left on device"):
        write_phantom(tmp_path / "data", PhantomSpec(1, 6, size=32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"clinics": 0}, "clinics"),
        ({"clinics": ("a", "a")}, "clinics"),
        ({"clinics": ("a/b",)}, "clinics"),
        ({"clinics": 10, "images": 100}, "220"),
        ({"melanoma_rate": 0.0}, "melanoma_rate"),
        ({"melanoma_rate": float("nan")}, "melanoma_rate"),
        ({"size": 8}, "size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_spec_that_cannot_be_rendered_is_refused(changes: dict[str, object], word: str) -> None:
    with pytest.raises(DataError, match=word):
        PhantomSpec(**{"clinics": 4, "images": 200, **changes})
