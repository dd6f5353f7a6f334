"""The doctor's look at a clinic's data, in good and bad state; it never tells a name."""

import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import melfed.client.doctor.data
from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.data import DataDoctor
from melfed.common.data.understood import Understanding
from melfed.common.doctor.steps import Check, examine_steps
from tests.client.doctors import edit, make_kit

Rows = list[dict[str, str]]


@pytest.fixture
def config(tmp_path: Path, phantom: Path) -> ClinicConfig:
    """A kit whose data are a copy of the phantom: 96 images of three sources."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    for image in (phantom / "images").iterdir():
        shutil.copy2(image, tmp_path / "data" / "images" / image.name)
    shutil.copy(phantom / "metadata.csv", tmp_path / "data")
    return make_kit(tmp_path / "kit", tmp_path / "data")


def examined(config: ClinicConfig) -> dict[str, Check]:
    return {check.name: check for check in examine_steps(DataDoctor(config).steps())}


def change(config: ClinicConfig, how: Callable[[Rows], object]) -> None:
    path = config.data_folder / "metadata.csv"
    with path.open() as file:
        rows = list(csv.DictReader(file))
    how(rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def replace_image(path: Path, content: bytes) -> None:
    """Write another file: the image itself is a link to the phantom's."""
    path.unlink()
    path.write_bytes(content)


def no_name(checks: dict[str, Check]) -> None:
    text = " ".join(f"{check.detail} {check.mend}" for check in checks.values())
    assert "synthetic_" not in text
    assert "_p0" not in text


def test_all_is_well(config: ClinicConfig) -> None:
    checks = examined(config)
    assert {name: check.status for name, check in checks.items() if check.status != "ok"} == {"melanomas": "warning"}
    assert "96 images (melfed)" in checks["table"].detail
    assert checks["images"].detail == "50 of 96 images tried, all readable"
    no_name(checks)


def test_one_picture_under_several_names(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    assert examined(config)["duplicates"].detail == "96 of 96 images compared, each another picture"
    images = sorted((config.data_folder / "images").iterdir())
    for copy in (images[1], images[-1]):
        replace_image(copy, images[0].read_bytes())
    checks = examined(config)
    assert checks["duplicates"].status == "warning"
    assert checks["duplicates"].detail.startswith(
        "96 of 96 images compared: 3 images are 1 picture under several names (1 of equal bytes, 1 of several patients"
    )
    no_name(checks)
    monkeypatch.setattr(melfed.client.doctor.data, "COMPARE_SECONDS", -1.0)
    assert examined(config)["duplicates"].detail == "0 of 96 images compared, each another picture"


def test_melanomas_in_plenty(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melfed.client.doctor.data, "FEW_TRAINING", 3)
    monkeypatch.setattr(melfed.client.doctor.data, "FEW_TEST", 1)
    assert examined(config)["melanomas"].status == "ok"


def test_no_such_folder(config: ClinicConfig) -> None:
    shutil.rmtree(config.data_folder)
    checks = examined(config)
    assert checks["data folder"].status == "failed"
    assert {check.status for name, check in checks.items() if name != "data folder"} == {"skipped"}


def test_a_configuration_without_data(config: ClinicConfig) -> None:
    file = config.file.model_copy(update={"data": None})
    checks = examined(ClinicConfig(config.path, file))
    assert checks["data folder"].status == "failed"
    assert "data" in checks["data folder"].mend


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "image,age\nx,3\n", "\x00\xff", "image\n"])
def test_missing_columns(config: ClinicConfig, content: str) -> None:
    (config.data_folder / "metadata.csv").write_text(content)
    found = examined(config)["table"]
    assert found.status == "failed"
    assert "image,target" in found.mend


def test_no_table_at_all(config: ClinicConfig) -> None:
    (config.data_folder / "metadata.csv").unlink()
    assert examined(config)["table"].status == "failed"


def test_a_cell_that_cannot_be_used_is_not_repeated(config: ClinicConfig) -> None:
    change(config, lambda rows: rows[3].update(target="both"))
    checks = examined(config)
    assert checks["table"].status == "failed"
    assert "melfed-sim data" in checks["table"].mend
    no_name(checks)


def test_rows_and_images_without_each_other_are_counted(config: ClinicConfig) -> None:
    change(config, lambda rows: rows.pop())
    next((config.data_folder / "images").glob("*_000000.jpg")).unlink()
    checks = examined(config)
    assert checks["table"].status == "warning"
    assert "1 rows without an image and 1 images without a row" in checks["table"].detail
    assert checks["images"].status == "ok"
    no_name(checks)


@pytest.mark.parametrize(("share", "status"), [(0.1, "warning"), (0.9, "failed")])
def test_unreadable_images_are_counted(config: ClinicConfig, share: float, status: str) -> None:
    images = sorted((config.data_folder / "images").iterdir())
    for image in images[: int(share * len(images))]:
        replace_image(image, b"no image")
    checks = examined(config)
    assert checks["images"].status == status
    assert "of 50 images" in checks["images"].detail
    no_name(checks)


def test_slow_images_do_not_hold_the_doctor_up(config: ClinicConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(melfed.client.doctor.data, "SAMPLE_SECONDS", -1.0)
    found = examined(config)["images"]
    assert found.status == "failed"
    assert "no image was read" in found.detail


@pytest.mark.parametrize("target", ["0", "1"])
def test_one_class_only(config: ClinicConfig, target: str) -> None:
    change(config, lambda rows: [row.update(target=target, diagnosis="") for row in rows])
    checks = examined(config)
    assert checks["melanomas"].status == "failed"
    assert "one class only" in checks["melanomas"].detail


def test_too_few_images(config: ClinicConfig) -> None:
    def few(rows: Rows) -> None:
        del rows[12:]
        rows[0].update(target="1", diagnosis="mel")

    change(config, few)
    assert "minimum_images" in examined(config)["melanomas"].detail


def test_images_without_patient(config: ClinicConfig) -> None:
    change(config, lambda rows: [row.update(patient_id="") for row in rows[:7]])
    checks = examined(config)
    assert checks["patients"].status == "failed"
    assert "7 of 96 images have no patient id" in checks["patients"].detail
    assert "patient_id" in checks["patients"].mend
    assert checks["delta"].status == "skipped"
    no_name(checks)
    lesions = edit(config, "policy: {", "policy: {unit: lesion, ")
    assert examined(lesions)["patients"].status == "ok"


@pytest.mark.parametrize(("delta", "status"), [("1.0e-5", "ok"), ("0.015", "warning"), ("0.3", "failed")])
def test_delta_by_the_number_of_patients(config: ClinicConfig, delta: str, status: str) -> None:
    found = examined(edit(config, "delta: 1.0e-5", f"delta: {delta}"))["delta"]
    assert found.status == status, found


def test_sources(config: ClinicConfig) -> None:
    one = edit(config, "data: {", "data: {sources: [phantom_north], ")
    assert "48 images" in examined(one)["table"].detail
    other = edit(config, "phantom_north", "ward")
    checks = examined(other)
    assert checks["table"].status == "failed"
    assert "3 sources" in checks["table"].detail


def test_a_link_out_of_the_folder_is_refused_without_its_name(config: ClinicConfig, tmp_path: Path) -> None:
    image = sorted((config.data_folder / "images").iterdir())[5]
    image.unlink()
    (tmp_path / "outside.jpg").write_bytes(b"x")
    image.symlink_to(tmp_path / "outside.jpg")
    checks = examined(config)
    assert checks["table"].status == "failed"
    no_name(checks)


@pytest.fixture
def opened(phantom: Path) -> Iterator[ClinicConfig]:
    """A kit whose worker's user is nobody, below /opt, since a folder of pytest's lets no other user in."""
    if os.geteuid() != 0:
        pytest.skip("looks as another user: needs root")
    with tempfile.TemporaryDirectory(dir="/opt") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "data" / "images").mkdir(parents=True)
        for image in (phantom / "images").iterdir():
            shutil.copyfile(image, folder / "data" / "images" / image.name)
        shutil.copyfile(phantom / "metadata.csv", folder / "data" / "metadata.csv")
        config = make_kit(folder / "kit", folder / "data")
        os.chown(config.worker_state, 65534, 65534)
        yield config


def test_the_data_are_looked_at_as_the_workers_user(opened: ClinicConfig) -> None:
    assert {check.status for check in examined(opened).values()} == {"ok", "warning"}
    images = opened.data_folder / "images"
    next(images.glob("*_000000.*")).chmod(0o600)
    table = opened.data_folder / "metadata.csv"
    for path, check in ((images, "images"), (table, "table"), (opened.data_folder, "data folder")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        found = examined(opened)[check]
        assert found.status == "failed"
        assert "the worker's user nobody may not read" in found.detail
        assert f"setfacl -R -m u:nobody:rX {opened.data_folder}" in found.mend
        no_name({check: found})


@pytest.mark.parametrize(("setting", "status"), [("yes", "failed"), ("tmpfs", "failed"), ("read-only", "ok")])
def test_data_that_the_unit_does_not_show_the_worker(
    config: ClinicConfig, setting: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(melfed.client.doctor.data.systemd_units, "UNIT_FOLDERS", (tmp_path / "units",))
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "melfed-worker.service").write_text(f"[Service]\nProtectHome={setting}\n")
    assert examined(config)["data folder"].status == "ok"
    monkeypatch.setattr(melfed.client.doctor.data, "HOMES", (tmp_path,))
    found = examined(config)["data folder"]
    assert found.status == status
    assert status == "ok" or "systemctl edit melfed-worker" in found.mend


def test_diagnoses_that_nobody_knows(config: ClinicConfig) -> None:
    def spoil(rows: Rows) -> None:
        for row in rows[:3]:
            row["diagnosis"] = "Klasse 7"

    change(config, spoil)
    checks = examined(config)
    assert checks["diagnoses"].status == "failed"
    assert "'Klasse 7' (3)" in checks["diagnoses"].detail
    assert "data.diagnoses in clinic.yaml" in checks["diagnoses"].mend
    no_name(checks)
    mapped = edit(config, "data: {", "data: {diagnoses: {klasse 7: leave_out}, ")
    checks = examined(mapped)
    assert checks["diagnoses"].status == "warning"
    assert "left out: 3 undecided" in checks["diagnoses"].detail


def test_a_table_of_unknown_diagnoses_alone(config: ClinicConfig) -> None:
    def spoil(rows: Rows) -> None:
        for number, row in enumerate(rows):
            row["diagnosis"] = f"Klasse {number % 10}"

    change(config, spoil)
    assert "Klasse 3" in examined(config)["table"].detail


def test_an_improbable_reading(config: ClinicConfig) -> None:
    def spoil(rows: Rows) -> None:
        for row in rows:
            row["patient_id"] = "1"

    change(config, spoil)
    checks = examined(config)
    assert checks["reading"].status == "failed" or len({row.patients for row in understood(config).patients}) == 1


def test_ids_that_are_one_persons_are_said(config: ClinicConfig) -> None:
    def spoil(rows: Rows) -> None:
        for row, name in zip(rows, ("12", "12.0", " 0012", "-1"), strict=False):
            row["patient_id"] = name

    change(config, spoil)
    checks = examined(config)
    assert checks["reading"].status == "warning"
    assert "1 patients are spelled in several ways" in checks["reading"].detail
    assert "1 patient ids are taken for not known" in checks["reading"].detail
    assert "0012" not in checks["reading"].detail


def test_how_the_table_was_read_holds_no_names(config: ClinicConfig) -> None:
    text = understood(config).model_dump_json()
    assert "synthetic_" not in text.replace("synthetic_lesions", "")
    assert "_p0" not in text
    assert {use.word for use in understood(config).words} >= {"mel"}


def understood(config: ClinicConfig) -> Understanding:
    doctor = DataDoctor(config)
    examine_steps(doctor.steps())
    assert doctor.understood is not None
    return doctor.understood
