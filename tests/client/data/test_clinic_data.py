"""A clinic's parts, and the fingerprint that its ledger is of."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.data.clinic_data import fingerprint, population_fingerprint
from melfed.client.data.loading import clinic_data, population, study_records
from tests.client.clinics import a_clinic
from tests.client.data.own import a_study
from tests.client.small import small_study


def test_studies_of_other_sources_share_the_clinics_ledger(tmp_path: Path, own: Path) -> None:
    config = a_clinic(tmp_path / "kit", data={"folder": str(own)})
    key = b"k" * 32
    studies = (a_study(), a_study(sources=("new",)), a_study(seed=3))
    assert len({fingerprint(clinic_data(config, study), key) for study in studies}) == 1
    fewer = a_clinic(tmp_path / "fewer", data={"folder": str(own), "sources": ["new"]})
    assert fingerprint(clinic_data(fewer, a_study()), key) != fingerprint(clinic_data(config, a_study()), key)


def test_which_diagnoses_are_positive_is_the_studys_and_not_the_datas(tmp_path: Path, own: Path) -> None:
    data = clinic_data(a_clinic(tmp_path / "kit", data={"folder": str(own)}), a_study())
    turned = replace(data, population=tuple(replace(record, target=1 - record.target) for record in data.population))
    assert fingerprint(turned, b"k" * 32) == fingerprint(data, b"k" * 32)
    others = replace(data, population=tuple(replace(record, patient_id="p0") for record in data.population))
    assert fingerprint(others, b"k" * 32) != fingerprint(data, b"k" * 32)


STUDY = small_study(
    partition={"minimum_images": 4}, privacy={"unit": "patient", "noise_multiplier": 2.0, "recipe": "manual"}
)


@pytest.fixture
def config(tmp_path: Path) -> ClinicConfig:
    """A clinic of 24 patients with an image each."""
    config = a_clinic(tmp_path / "kit", policy={"epsilon": 100.0, "studies": "any"})
    config.data_folder.mkdir()
    for number in range(24):
        Image.new("RGB", (40, 40), (number * 10, 80, 90)).save(config.data_folder / f"{number}.png")
    list_patients(config, range(24))
    prepare_worker(config)
    return config


def list_patients(config: ClinicConfig, numbers: range) -> None:
    rows = [f"{number}.png,{number % 2},p{number}" for number in numbers]
    (config.data_folder / "table.csv").write_text("\n".join(["image,target,patient_id", *rows]) + "\n")


def test_the_ledger_is_of_the_same_population_whatever_a_study_calls_positive(config: ClinicConfig) -> None:
    (config.data_folder / "table.csv").write_text(
        "isic_id,diagnosis_1,diagnosis_3,patient_id\n"
        + "".join(
            f"{n},{'Malignant' if n % 2 else 'Benign'},{'Melanoma' if n % 2 else 'Nevus' if n else ''},p{n}\n"
            for n in range(24)
        )
    )
    key = b"k" * 32
    other = small_study(partition={"minimum_images": 4}, data={"image_size": 32, "positive": ("nv",)})
    assert len(study_records(config, other)) == 23, "of one image only melanoma is known not to be there"
    expected = population_fingerprint(population(config), key)
    for study in (STUDY, other):
        assert fingerprint(clinic_data(config, study), key) == expected
