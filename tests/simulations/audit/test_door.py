"""A clinic as its coordinator sees it."""

import csv
import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from melfed.client.config.policy import check_study
from melfed.client.data.clinic_data import PARTS
from melfed.client.ledger.key import ledger_key
from melfed.client.worker.guard import smallest_noise
from melfed.common.errors import DeclinedError
from melfed.common.study.protocol import StudyProtocol
from melfed.simulations.audit.door import (
    AuditedClinic,
    Picture,
    images_of,
    nameless,
    patients,
    png,
    policy_for,
    quiet,
    write_data,
)
from melfed.simulations.audit.worlds import CPU


def study_at(epsilon: float, **privacy: object) -> StudyProtocol:
    stated = {"unit": "patient", "epsilon": epsilon, "recipe": "manual", **privacy}
    return StudyProtocol.model_validate({"privacy": stated})


@pytest.mark.parametrize("unit", ["patient", "lesion", "image"])
def test_made_up_patients_lie_where_they_are_meant_to(tmp_path: Path, unit: str) -> None:
    """As the clinic itself reads its table and divides it."""
    study, folder = study_at(2.0, unit=unit), tmp_path / "clinic"
    key, pixels = ledger_key(folder / "key" / "ledger.jsonl"), np.zeros((32, 32, 3), np.uint8)
    images = 1 if unit == "image" else 2
    meant = {
        part: [
            record
            for patient in patients(part, 12, study, key, part, nameless(1, "mel"))
            for record in images_of(patient, images)
        ]
        for part in PARTS
    }
    write_data(folder, [Picture(record, png(pixels)) for records in meant.values() for record in records])
    with AuditedClinic(folder, policy_for(study, 2.0), CPU) as clinic:
        clinic.take_key(key)
        found = clinic.data(study)
    for part in PARTS:
        assert {record.image for record in getattr(found, part)} == {record.image for record in meant[part]}


def test_a_picture_is_written_as_it_is_and_a_patient_has_as_many_as_are_asked_for() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
    one = replace(nameless(1, "mel"), image="a", patient_id="a")
    assert [record.image for record in images_of(one, 2)] == ["a-0.png", "a-1.png"]
    assert {(record.patient_id, record.target, record.diagnosis) for record in images_of(one, 2)} == {("a", 1, "mel")}


def test_a_clinics_folder_holds_what_was_written_last_and_nothing_else(tmp_path: Path) -> None:
    def pictures(*names: str) -> list[Picture]:
        return [Picture(replace(nameless(0, "nv"), image=name, patient_id=name), name.encode()) for name in names]

    write_data(tmp_path, pictures("a.png", "b.png"))
    kept = (tmp_path / "data/b.png").stat().st_mtime_ns
    write_data(tmp_path, pictures("b.png", "c.png"))
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["b.png", "c.png", "metadata.csv"]
    assert (tmp_path / "data/b.png").stat().st_mtime_ns == kept, "what is the same is not written again"
    with (tmp_path / "data/metadata.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["patient_id"], row["age"]) for row in rows] == [
        ("b.png", "b.png", ""),
        ("c.png", "c.png", ""),
    ]


def test_the_policy_lets_the_study_in_and_no_other_and_no_more_epsilon() -> None:
    study = study_at(2.0)
    policy = policy_for(study, 2.0)
    check_study(policy, study, smallest_noise(study))
    with pytest.raises(DeclinedError):
        check_study(policy, study.model_copy(update={"seed": 1}), smallest_noise(study))
    assert (policy.epsilon, policy.studies) == (2.0, (study.digest,))


def test_what_made_up_clinics_log_is_kept_from_the_terminal_and_nothing_after(caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        logging.getLogger("melfed").error("of a made-up clinic")
    logging.getLogger("melfed").error("of a real one")
    assert caplog.messages == ["of a real one"]


def test_a_clinic_that_forgets_keeps_its_key_alone(tmp_path: Path) -> None:
    with AuditedClinic(tmp_path, policy_for(study_at(2.0), 2.0), CPU) as clinic:
        clinic.take_key(b"k" * 32)
        state = clinic.config.worker_state
        for name in ("ledger.jsonl", "ledger.jsonl.head", "stored.safetensors", "outbox/answer"):
            (state / name).parent.mkdir(exist_ok=True)
            (state / name).touch()
        clinic.forget()
        assert {path.name for path in state.rglob("*") if path.is_file()} == {"ledger.key"}
        assert clinic.config.ledger.with_suffix(".key").read_bytes() == b"k" * 32
