"""What the coordinator's page is made of."""

import json
import os

from melfed.server.config import ServerConfig
from melfed.server.page.view import ServerPage
from melfed.server.runs.state import change_state
from tests.live_page import streamed
from tests.server.page.made import HOSTILE, STUDY, add_round, with_run


def parts(config: ServerConfig, chosen: str = "") -> dict:
    return dict(streamed(ServerPage(config), chosen=chosen))


def test_before_any_run_there_are_clinics_and_events(config: ServerConfig) -> None:
    found = parts(config)
    assert (found["run"], found["runs"], found["error"]) == (None, [], "")
    assert (found["server"]["name"], found["server"]["running"]) == ("test", True)
    clinics = {row["name"]: row for row in found["clinics"]}
    assert (clinics["a"]["online"], clinics["a"]["version"], clinics["a"]["budget"]) == (True, "0.2.0", 2.5)
    assert (clinics["b"]["reason"], clinics["b"]["approves"]) == (HOSTILE, False)
    assert (clinics["North-Clinic.1"]["revoked"], clinics["North-Clinic.1"]["approves"]) == (True, None)
    assert [row["name"] for row in found["events"]] == ["clinic-declined"]


def test_the_run_under_way_is_shown_with_what_each_clinic_did_in_it(config: ServerConfig) -> None:
    folder = with_run(config, rounds=2)
    found = parts(config)
    run = found["run"]
    assert (run["name"], run["round"], run["rounds"], run["asks"]) == ("r", 2, 1000, ["a", "b", "North-Clinic.1"])
    assert (run["private"], run["epsilon"], run["delta"], run["unit"]) == (
        True,
        3.0,
        STUDY.privacy and STUDY.privacy.delta,
        "patient",
    )
    a, b, _ = found["clinics"]
    assert (a["approves"], a["account"], a["rounds"]["answered"]) == (True, {"epsilon": 1.25}, 2)
    assert (b["rounds"]["declined"], b["account"]) == ([2, HOSTILE], None)
    assert [row["round"] for row in found["rounds/0"]] == [1, 2]
    page = ServerPage(config)
    page.look("")
    add_round(folder, 3)
    assert len(page.look("")["rounds/0"]) == 3


def test_another_run_is_shown_where_it_is_named(config: ServerConfig) -> None:
    done = with_run(config, rounds=1, name="done")
    change_state(done.path, status="completed", wanted=False)
    broken = config.runs / "broken"
    broken.mkdir()
    (broken / "state.json").write_text("{")
    os.utime(broken, (2**31, 2**31))  # the clock of a file system may be too coarse for two folders made at once
    assert parts(config)["run"]["name"] == "r"
    assert parts(config, "done")["run"]["status"] == "completed"
    found = parts(config, "broken")
    assert (found["run"]["status"], found["run"]["private"], "rounds/0" in found) == ("damaged", False, False)
    assert parts(config, "../../etc")["run"]["name"] == "r"
    assert next(row["name"] for row in found["runs"]) == "broken"
    json.dumps(found, allow_nan=False)
