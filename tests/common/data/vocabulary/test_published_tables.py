"""The words of real published tables: all are in the vocabulary."""

import csv
from pathlib import Path

import pytest

from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import CODES
from melfed.common.data.vocabulary.sex import read_sex
from melfed.common.data.vocabulary.sites import read_site
from melfed.common.data.vocabulary.skin import read_fitzpatrick, read_milk10k

TABLES = "data/found/tables"


def words(shared: Path, table: str, column: str) -> set[str]:
    with (shared / table).open(encoding="utf-8-sig", newline="") as file:
        return {row[column] for row in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (f"{TABLES}/milk10k/MILK10k_Training_Supplement.csv", "diagnosis_full"),
        (f"{TABLES}/fitzpatrick17k/fitzpatrick17k.csv", "label"),
        (f"{TABLES}/fitzpatrick17k/fitzpatrick17k.csv", "nine_partition_label"),
        (f"{TABLES}/fitzpatrick17k/fitzpatrick17k.csv", "three_partition_label"),
        (f"{TABLES}/pad-ufes-20/metadata.csv", "diagnostic"),
        (f"{TABLES}/isic2016/ISBI2016_ISIC_Part3_Training_GroundTruth.csv", "Label"),
        ("data/tables/HAM10000_metadata.csv", "dx"),
        ("data/tables/ISIC_2020_Training_GroundTruth_v2.csv", "diagnosis"),
        ("data/isic/metadata.csv", "diagnosis"),
    ],
)
def test_diagnoses(shared: Path, table: str, column: str) -> None:
    found = words(shared, table, column)
    assert {word for word in found if read_diagnosis(word).reading == "unknown"} == set()
    for word in found:
        if "melanom" in word.lower():
            assert read_diagnosis(word).could_be <= CODES["mel"].entities, word


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (f"{TABLES}/milk10k/MILK10k_Training_Metadata.csv", "site"),
        (f"{TABLES}/pad-ufes-20/metadata.csv", "region"),
        (f"{TABLES}/slice-3d/test-metadata.csv", "anatom_site_general"),
        (f"{TABLES}/slice-3d/test-metadata.csv", "tbp_lv_location_simple"),
        (f"{TABLES}/isic2019-test/ISIC_2019_Test_Metadata.csv", "anatom_site_general"),
        ("data/tables/HAM10000_metadata.csv", "localization"),
        ("data/tables/ISIC_2020_Training_GroundTruth_v2.csv", "anatom_site_general_challenge"),
        ("data/isic/metadata.csv", "site"),
    ],
)
def test_sites(shared: Path, table: str, column: str) -> None:
    assert {word for word in words(shared, table, column) if read_site(word).reading == "unknown"} == set()


def test_ham10000s_sites_are_those_that_isic_2019_gives_its_images(shared: Path) -> None:
    with (shared / "data/tables/ISIC_2019_Training_Metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        given = {row["image"]: row["anatom_site_general"] for row in csv.DictReader(file)}
    with (shared / "data/tables/HAM10000_metadata.csv").open(encoding="utf-8-sig", newline="") as file:
        pairs = {
            (row["localization"], given[row["image_id"]]) for row in csv.DictReader(file) if row["image_id"] in given
        }
    assert all(read_site(word).value == site for word, site in pairs if site)


def test_skin_types_and_sexes(shared: Path) -> None:
    fitzpatrick = words(shared, f"{TABLES}/fitzpatrick17k/fitzpatrick17k.csv", "fitzpatrick_scale")
    assert {read_fitzpatrick(word).value for word in fitzpatrick} == {None, *range(1, 7)}
    pad = words(shared, f"{TABLES}/pad-ufes-20/metadata.csv", "fitspatrick")
    assert {word for word in pad if read_fitzpatrick(word).reading == "unknown"} == set()
    milk = words(shared, f"{TABLES}/milk10k/MILK10k_Training_Metadata.csv", "skin_tone_class")
    assert None not in {read_milk10k(word).value for word in milk}
    assert {read_sex(word).value for word in words(shared, f"{TABLES}/pad-ufes-20/metadata.csv", "gender")} == {
        None,
        "male",
        "female",
    }
