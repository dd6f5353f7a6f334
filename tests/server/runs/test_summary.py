"""A run's summary: read back as it was written, and those of melfed 0.1 with what they do not say."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from melfed.server.runs.summary import AT_CLINICS, Counted, RunSummary
from tests.server.fake_run import PRIVATE, FakeRun

ONE = {"clinics": ("a",), "images": (200,), "melanoma_rates": (0.3,), "rounds": 1}


def content(path: Path, **changes) -> dict:
    return json.loads(FakeRun(**{**ONE, **changes}).write(path / "run").summary().model_dump_json())


def without_counted(written: dict) -> dict:
    for row in (*written["clinics"], written["data"]):
        del row["counted"]
    return written


def test_a_summary_is_read_back_and_takes_no_key_that_it_does_not_know(tmp_path: Path) -> None:
    written = content(tmp_path)
    assert json.loads(RunSummary.model_validate(written).model_dump_json()) == written
    with pytest.raises(ValidationError):
        RunSummary.model_validate({**written, "more": 1})


@pytest.mark.parametrize("deployed", [True, False])
def test_a_private_summary_that_does_not_say_how_it_was_counted_was_rounded(tmp_path: Path, deployed: bool) -> None:
    written = without_counted(content(tmp_path, privacy=PRIVATE, deployed=deployed))
    assert (written["data"]["layout"] == AT_CLINICS) == deployed
    found = RunSummary.model_validate(written)
    assert [clinic.counted for clinic in found.clinics] == [Counted(how="rounded")]
    assert found.data.counted == (Counted(how="rounded") if deployed else Counted())


def test_one_that_says_so_keeps_it_and_without_privacy_all_is_exact(tmp_path: Path) -> None:
    written = content(tmp_path, privacy=PRIVATE)
    assert {clinic.counted.how for clinic in RunSummary.model_validate(written).clinics} == {"noised"}
    bare = RunSummary.model_validate(without_counted(content(tmp_path / "bare")))
    assert {clinic.counted.how for clinic in bare.clinics} == {"exact"}
