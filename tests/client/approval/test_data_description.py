"""How a clinic's table is read, told before a study is approved."""

import json
from pathlib import Path

import pytest

from melfed.client.approval.approvals import approved
from melfed.client.approval.data_description import read_for, refuse_unknown_words
from melfed.client.config.clinic import ClinicConfig
from melfed.common.data.decisions import UnknownWords
from tests.client.clinics import a_clinic
from tests.client.commands import Command
from tests.common.lesions import touch, write

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def odd(config: ClinicConfig) -> Path:
    """A data folder of the clinic whose table has a diagnosis that nobody knows."""
    data = config.folder / "data"
    write(data / "table.csv", "image,diagnosis,patient_id", "1.png,melanoma,1", "2.png,nevus,2", "3.png,Klasse 7,3")
    touch(data, "1.png", "2.png", "3.png")
    return data


def with_data(config: ClinicConfig, **section: object) -> ClinicConfig:
    return a_clinic(config.folder, data={"folder": "data", **section})


@pytest.mark.parametrize("what", ["study", "digest"])
def test_approve_says_no_to_diagnoses_that_nobody_knows(
    command: Command, config: ClinicConfig, study: Path, odd: Path, what: str
) -> None:
    here = with_data(config)
    done = command("approve", study if what == "study" else DIGEST)
    assert (done.code, approved(here)) == (4, ())
    assert "'Klasse 7' (1)" in done.err
    assert "NOT KNOWN: map it" in done.out
    assert command("approve", study, "--check").code == 4


@pytest.mark.parametrize("code", ["mel", "leave_out"])
def test_approve_shows_how_the_table_is_read(
    command: Command, config: ClinicConfig, study: Path, odd: Path, code: str
) -> None:
    here = with_data(config, diagnoses={"klasse 7": code})
    done = command("approve", study)
    assert (done.code, len(approved(here))) == (0, 1)
    assert "Klasse 7" in done.out
    assert "patient_id" in done.out
    shown = json.loads(command("approve", study, "--check", "--json").out)
    assert shown["approval"] is None
    assert {use["word"]: use["code"] for use in shown["understood"]["words"]}["melanoma"] == "mel"
    assert json.loads(command("approve", study, "--json").out)["approval"]["by"] == "it"


def test_a_table_is_understood_or_the_reason_is_told(config: ClinicConfig) -> None:
    assert read_for(config, None).problem == f"{config.data_folder}: no such folder; " + (
        "give the folder that holds the images and their table"
    )
    refuse_unknown_words(config, None)  # a clinic without a table has none
    config.data_folder.mkdir()
    table = config.data_folder / "table.csv"
    for name in "ab":
        (config.data_folder / f"{name}.png").touch()
    table.write_text("image,diagnosis\na,melanoma\nb,wartoid\n")
    reading = read_for(config, None)
    assert reading.understood is not None
    assert reading.unknown is not None
    assert reading.unknown.words == {"wartoid": 1}
    with pytest.raises(UnknownWords, match="'wartoid' \\(1\\)"):
        refuse_unknown_words(config, None)
    table.write_text("image,diagnosis\na,melanoma\nb,nevus\n")
    reading = read_for(config, None)
    assert (reading.unknown, reading.problem) == (None, None)
    assert reading.understood is not None
    refuse_unknown_words(config, None)
