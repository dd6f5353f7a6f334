"""What a clinic's page is made of."""

import json
from pathlib import Path

import pytest

from melfed.client.page.view import ClinicPage
from melfed.client.privacy import accounting
from tests.client.clinics import a_clinic
from tests.client.ledger.ledgers import cheap_epsilon
from tests.client.models.delivered import RUN, STUDY
from tests.client.page.made import HOSTILE, busy_clinic
from tests.live_page import streamed


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "epsilon", cheap_epsilon)


def test_it_shows_requests_ledger_and_models_and_then_how_the_clinic_is(tmp_path: Path) -> None:
    page = ClinicPage(busy_clinic(tmp_path))
    found = dict(streamed(page))
    assert (found["error"], found["status"]["clinic"], found["status"]["examined"]) == ("", "north", False)
    assert [(row["outcome"], row["reason"]) for row in found["asked"]] == [("declined", HOSTILE), ("answered", "")]
    assert {row["log"] for row in found["events"]} == {"worker", "messenger"}
    (charged,) = found["ledger"]["charges"]
    assert (charged["run"], charged["status"], found["ledger"]["all"], len(found["ledger"]["head"])) == (
        *(HOSTILE, "released", 1),
        64,
    )
    (model,) = found["models"]["models"]
    assert (model["name"], model["facts"]["intended use"]) == (f"{STUDY.digest[:12]}-{RUN}", HOSTILE)
    status = dict(streamed(page))["status"]
    assert (status["examined"], status["ready"], status["processes"]["worker"]) == (True, False, "not running")
    assert status["budget"]["epsilon"] == 3.0
    json.dumps(found, allow_nan=False)


def test_the_examination_is_made_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ClinicPage(a_clinic(tmp_path))
    streamed(page, 2)
    monkeypatch.setattr("melfed.client.page.view.status", None)
    assert "status" in dict(streamed(page))
    monkeypatch.setattr("melfed.client.page.view.STATUS_SECONDS", 0.0)
    with pytest.raises(TypeError):
        streamed(page)


def test_one_damaged_part_leaves_the_others(tmp_path: Path) -> None:
    config = busy_clinic(tmp_path)
    page = ClinicPage(config)
    assert page.look("")["ledger"]["problem"] == ""
    config.ledger.write_text("nonsense\n")
    (config.models / "x.safetensors").write_bytes(b"nonsense")
    found = page.look("")
    assert "ledger.jsonl" in found["ledger"]["problem"]
    assert "x.safetensors: damaged" in found["models"]["problem"]
    assert len(found["asked"]) == 2


def test_what_this_user_may_not_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> None:
        raise PermissionError(13, "not for you", "ledger.jsonl")

    monkeypatch.setattr("melfed.client.page.view.ledger_of", refuse)
    assert ClinicPage(a_clinic(tmp_path)).look("")["ledger"]["problem"] == "this user may not read it"


def test_before_anything_there_is_nothing(tmp_path: Path) -> None:
    found = ClinicPage(a_clinic(tmp_path)).look("")
    assert (found["asked"], found["ledger"]["charges"], found["models"]["models"]) == ([], [], [])
