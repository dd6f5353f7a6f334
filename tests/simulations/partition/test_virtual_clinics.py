"""From a folder of images to virtual clinics: what is left out, what is refused, who is first."""

import csv
import shutil
from pathlib import Path

import pytest
from PIL import Image

from melfed.common.data.origin import SYNTHETIC_NOTICE
from melfed.common.errors import DataError, StudyError
from melfed.common.metrics.noisy import metrics_of
from melfed.common.metrics.noisy_histogram import pooled
from melfed.common.model.classifier import trainable_tensors
from melfed.common.study.build import build_study_classifier
from melfed.common.study.protocol import DataSpec, PartitionSpec, PrivacySpec, StudyProtocol
from melfed.server.report.words import hint
from melfed.server.runs.folder import RunFolder
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from tests.client.small import small_study
from tests.in_process import federate_here


def a_study(**data: object) -> StudyProtocol:
    partition = data.pop("partition", PartitionSpec(minimum_images=4))
    return StudyProtocol(data=DataSpec(image_size=32, **data), partition=partition)


@pytest.fixture
def folder(phantom: Path, tmp_path: Path) -> Path:
    """A copy of the phantom that a test may damage."""
    return Path(shutil.copytree(phantom, tmp_path / "data"))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def rewrite(folder: Path, table: list[dict[str, str]]) -> None:
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, table[0].keys())
        writer.writeheader()
        writer.writerows(table)


def refusal(study: StudyProtocol, folder: Path, cache: Path, kind: type[Exception] = DataError) -> str:
    with pytest.raises(kind) as excinfo:
        divide(study, folder, cache)
    assert "\n" not in str(excinfo.value)
    return str(excinfo.value)


def test_clinics_come_largest_first_and_hold_what_the_splits_say(phantom_clinics: VirtualClinics) -> None:
    names = [clinic.name for clinic in phantom_clinics.clinics]
    assert names == ["phantom_north", "phantom_south", "phantom_east"]
    sizes = [len(clinic.train) for clinic in phantom_clinics.clinics]
    assert sizes == sorted(sizes, reverse=True)
    splits = {split.name: split for split in phantom_clinics.splits}
    for clinic in phantom_clinics.clinics:
        for part in ("train", "validation", "test"):
            chosen = tuple(phantom_clinics.records[i] for i in getattr(splits[clinic.name], part))
            assert getattr(clinic, part) == chosen
            assert {record.source for record in chosen} == {clinic.name}
            assert len(clinic.load(part)) == len(chosen)


def test_clinics_of_one_size_come_by_name(phantom: Path, tmp_path: Path) -> None:
    virtual = divide(a_study(partition=PartitionSpec(by="iid", clinics=3, minimum_images=4)), phantom, tmp_path)
    order = [(-len(clinic.train), clinic.name) for clinic in virtual.clinics]
    assert order == sorted(order)


def test_the_summary_counts_what_is_in_a_clinic(phantom_clinics: VirtualClinics, phantom: Path) -> None:
    summary = phantom_clinics.summary()
    table = rows(phantom)
    assert summary.images == len(table) == 96
    assert summary.melanomas == sum(row["target"] == "1" for row in table)
    assert summary.groups == len({row["patient_id"] for row in table})
    assert (summary.groups_by, summary.folder, summary.layout) == ("patient", "data", "melfed")
    assert summary.left_out == ()


def test_the_summary_leaves_out_clinics_that_take_no_part(phantom: Path, tmp_path: Path) -> None:
    study = a_study(partition=PartitionSpec(clinics=2, minimum_images=4))
    summary = divide(study, phantom, tmp_path).summary()
    assert summary.images == 48 + 32


def test_the_notice_of_the_phantom_makes_it_synthetic(folder: Path, tmp_path: Path) -> None:
    assert divide(a_study(), folder, tmp_path / "cache").summary().synthetic
    (folder / SYNTHETIC_NOTICE).unlink()
    assert not divide(a_study(), folder, tmp_path / "cache").summary().synthetic


def test_sources_are_selected_before_anything_is_decoded(phantom: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    study = a_study(sources=("phantom_*", "!phantom_east"))
    virtual = divide(study, phantom, tmp_path, lambda *counts: seen.append(counts))
    assert {clinic.name for clinic in virtual.clinics} == {"phantom_north", "phantom_south"}
    assert seen[-1] == (80, 80)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert "phantom_mars" in refusal(a_study(sources=("phantom_mars",)), phantom, tmp_path)


def test_pictures_that_cannot_be_used_are_left_out_and_listed(folder: Path, tmp_path: Path) -> None:
    whole = divide(a_study(), folder, tmp_path / "cache")
    broken = [record.image for record in whole.records[:3]]
    content = (folder / broken[0]).read_bytes()
    (folder / broken[0]).write_bytes(content[: len(content) // 2])
    (folder / broken[1]).write_bytes(b"")
    (folder / broken[2]).write_text("no picture")
    virtual = divide(a_study(), folder, tmp_path / "cache")
    assert [item.image for item in virtual.left_out] == broken
    assert all(item.reason for item in virtual.left_out)
    assert {record.image for record in whole.records} - {record.image for record in virtual.records} == set(broken)
    parts = [(c.train, c.validation, c.test) for c in virtual.clinics]
    used = [record.image for clinic in parts for part in clinic for record in part]
    assert sorted(used) == sorted(record.image for record in virtual.records)
    summary = virtual.summary()
    assert [item.image for item in summary.left_out] == broken
    assert summary.images == 93


def test_pictures_that_come_back_are_used_again(folder: Path, tmp_path: Path) -> None:
    image = folder / rows(folder)[0]["image"]
    content = image.read_bytes()
    image.write_bytes(b"broken")
    assert len(divide(a_study(), folder, tmp_path / "cache").left_out) == 1
    image.write_bytes(content)
    assert not divide(a_study(), folder, tmp_path / "cache").left_out


def test_no_usable_picture_at_all_is_refused(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "images").iterdir():
        path.write_bytes(b"broken")
    message = refusal(a_study(), folder, tmp_path / "cache")
    assert message.startswith(f"{folder}: none of 96 images can be used; the first, images/synthetic_000000.jpg: ")


@pytest.mark.parametrize(("target", "words"), [("0", "none is positive"), ("1", "each is positive")])
def test_one_class_only_is_refused(folder: Path, tmp_path: Path, target: str, words: str) -> None:
    table = rows(folder)
    diagnosis = "mel" if target == "1" else "nv"
    rewrite(folder, [{**row, "target": target, "diagnosis": diagnosis} for row in table])
    message = refusal(a_study(), folder, tmp_path / "cache")
    assert f"of 96 images {words}" in message
    assert diagnosis in message


def test_a_clinic_of_one_class_takes_part(folder: Path, tmp_path: Path) -> None:
    table = [
        {**row, "target": "0", "diagnosis": "nv"} if row["source"] == "phantom_east" else row for row in rows(folder)
    ]
    rewrite(folder, table)
    divided = divide(a_study(), folder, tmp_path / "cache")
    assert "phantom_east" in {clinic.name for clinic in divided.clinics}


def test_what_a_study_protects_must_be_in_the_table(folder: Path, tmp_path: Path) -> None:
    rewrite(folder, [{**row, "patient_id": ""} if number < 3 else row for number, row in enumerate(rows(folder))])
    private = a_study().model_copy(update={"privacy": PrivacySpec(unit="patient", epsilon=3.0)})
    assert "3 of 96 images have no patient id" in refusal(private, folder, tmp_path / "cache")


def test_a_clinic_with_too_few_usable_pictures_is_refused_with_the_numbers(folder: Path, tmp_path: Path) -> None:
    for row in rows(folder):
        if row["source"] == "phantom_east":
            (folder / row["image"]).write_bytes(b"")
            break
    usable = a_study(partition=PartitionSpec(minimum_images=16, test=0.0, validation=0.0))
    assert "'phantom_east' would have 15 training images" in refusal(usable, folder, tmp_path / "cache")


def test_more_clinics_than_sources_are_refused(phantom: Path, tmp_path: Path) -> None:
    study = a_study(partition=PartitionSpec(clinics=4))
    assert "4 clinics asked of 3 source(s)" in refusal(study, phantom, tmp_path, StudyError)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(a_study(), tmp_path / "missing", tmp_path / "cache")


def test_the_division_follows_the_seed_and_not_the_place(folder: Path, phantom: Path, tmp_path: Path) -> None:
    one, two = (divide(a_study(), place, tmp_path / "cache") for place in (phantom, folder))
    assert one.splits == two.splits
    assert one.records == two.records
    other = divide(a_study().model_copy(update={"seed": 1}), phantom, tmp_path / "cache")
    assert other.splits != one.splits


def test_paths_mean_the_same_in_another_working_directory(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    virtual = divide(a_study(), Path(), Path("../cache"))
    assert virtual.summary().folder == "data"
    monkeypatch.chdir("/")
    assert len(virtual.clinics[0].load("train")) == len(virtual.clinics[0].train)


def with_one_picture_of_two_patients(folder: Path) -> tuple[str, str]:
    """Give a patient's picture to a patient of another source too, saved as another file."""
    table = rows(folder)
    one, other = table[0], next(row for row in table if row["source"] != table[0]["source"])
    with Image.open(folder / one["image"]) as image:
        image.save(folder / other["image"], "PNG", compress_level=1)
    return one["image"], other["image"]


def test_one_picture_of_two_patients_is_kept_together_without_privacy(folder: Path, tmp_path: Path) -> None:
    images = with_one_picture_of_two_patients(folder)
    virtual = divide(a_study(), folder, tmp_path / "cache")
    assert [group.images for group in virtual.duplicates] == [tuple(sorted(images))]
    parts = [part for split in virtual.splits for part in (split.train, split.validation, split.test)]
    holding = [{virtual.records[i].image for i in part} & set(images) for part in parts]
    assert sorted(map(len, holding))[-2:] == [0, 2]


def test_one_picture_of_two_patients_joins_nobody_with_privacy(folder: Path, tmp_path: Path) -> None:
    private = a_study().model_copy(
        update={"privacy": PrivacySpec(unit="patient", epsilon=3.0, delta=1e-4, patients=20)}
    )
    before = divide(private, folder, tmp_path / "cache")
    with_one_picture_of_two_patients(folder)
    after = divide(private, folder, tmp_path / "cache")
    assert len(after.duplicates) == 1
    assert after.splits == before.splits
    assert after.records == before.records


def test_metadata_that_no_image_has_are_refused_and_those_of_one_are_enough(folder: Path, tmp_path: Path) -> None:
    study = a_study().with_changes("model", metadata=True)
    assert divide(study, folder, tmp_path / "cache").clinics
    table = [{**row, "age": "", "sex": "", "site": ""} for row in rows(folder)]
    rewrite(folder, table)
    said = refusal(study, folder, tmp_path / "cache")
    assert said.startswith(
        f"{folder}: no image has an age, a sex or a site, so model.metadata: true would have no effec"
    )
    assert divide(a_study(), folder, tmp_path / "cache").clinics
    rewrite(folder, [{**table[0], "sex": "male"}, *table[1:]])
    assert divide(study, folder, tmp_path / "cache").clinics


def test_a_clinic_of_one_class_trains_and_its_own_metrics_are_undefined(phantom: Path, tmp_path: Path) -> None:
    """Patients with a melanoma are at one clinic, with their other images, and all others at the other."""
    spec = PartitionSpec(by="pathological", classes=1, clinics=2, minimum_images=1, test=0.3)
    study = small_study(partition=spec.model_dump())
    virtual = divide(study, phantom, tmp_path / "cache")
    targets = {clinic.name: {record.target for record in clinic.train} for clinic in virtual.clinics}
    (one_sided,) = (name for name, found in targets.items() if found == {0})
    outcome = federate_here(study, virtual.clinics, RunFolder.create(tmp_path / "run", study))
    start = trainable_tensors(build_study_classifier(study))
    assert any((tensor != start[name]).any() for name, tensor in outcome.models[""].items())
    (event, *_) = (event for event in RunFolder.open(tmp_path / "run").events() if event["event"] == "round")
    assert event["answered"] == sorted(targets)
    metrics = metrics_of(outcome.test[one_sided])
    assert (metrics.auroc.value, hint(metrics)) == (None, "no melanoma in test")
    assert metrics_of(pooled(outcome.test.values())).auroc.value is not None
