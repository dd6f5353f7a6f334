"""How the server, its clinics and its runs are."""

import json
from datetime import UTC, datetime

from typer.testing import CliRunner

from melfed.common.errors import (
    ServiceError,
)
from melfed.common.study.protocol import StudyProtocol
from melfed.server.cli.main import app
from melfed.server.clinics.self_reports import Said, note_said
from melfed.server.daemon.state import DaemonState, write_daemon_state
from melfed.server.runs.request import queue_run
from melfed.server.runs.state import change_state
from tests.server.cli.commands import call


def test_status_cuts_a_long_reason_and_names_the_runs_identity(running):
    folder = queue_run(running.runs / "r", StudyProtocol(name="s"), ("a",), [])
    change_state(folder.path, status="failed", wanted=False, reason="word " * 50)
    (run,) = json.loads(call("status", "--json"))["runs"]
    assert (run["identity"], len(run["reason"])) == (folder.identity, 250)
    shown = " ".join(call("status").split())
    assert "…; melfed-server log" in shown
    assert shown.count("word") == 20


def test_status_without_a_server_shows_the_runs(config):
    queue_run(config.runs / "r", StudyProtocol(name="s"), ("a",), [])
    (config.runs / "broken").mkdir()
    (config.runs / "broken" / "state.json").write_text("{")
    done = CliRunner().invoke(app, ["status", "--json"])
    assert done.exit_code == ServiceError.exit_code
    found = json.loads(done.stdout)
    assert not found["running"]
    assert {run["name"]: run["status"] for run in found["runs"]} == {"r": "queued", "broken": "damaged"}


def test_status_joins_what_clinics_said(running):
    clinics = [{"name": "a", "online": True, "node": 1}, {"name": "b"}]
    state = DaemonState.model_validate({"pid": 1, "started": "now", "clinics": tuple(clinics)})
    write_daemon_state(running.daemon_state, state)
    note_said(running.clinics_said, "a", Said(version="1.2", approved=("f" * 64,), budget=2.5))
    rows = {row["name"]: row for row in json.loads(call("status", "--json"))["clinics"]}
    assert (rows["a"]["version"], rows["a"]["budget"], rows["a"]["online"]) == ("1.2", 2.5, True)
    assert rows["b"]["approved"] is None
    assert "2.5" in call("status")


def test_what_a_clinic_said_before_it_declined_stays(running):
    clinics = [{"name": "a", "online": True, "since": datetime.now(UTC).isoformat()}, {"name": "b"}]
    write_daemon_state(
        running.daemon_state, DaemonState.model_validate({"pid": 1, "started": "now", "clinics": tuple(clinics)})
    )
    note_said(running.clinics_said, "a", Said(version="1.2", approved=("f" * 64,), budget=2.5))
    note_said(running.clinics_said, "a", Said(version="1.3", reason="spent"))
    note_said(running.clinics_said, "b", Said(approved=()))
    rows = {row["name"]: row for row in json.loads(call("status", "--json"))["clinics"]}
    assert (rows["a"]["version"], rows["a"]["approved"], rows["a"]["budget"]) == ("1.3", ["f" * 64], 2.5)
    assert rows["b"]["approved"] == []
    table = call("status")
    assert ("none" in table, "last seen" in table, "0 s ago" in table) == (True, False, True)
    note_said(running.clinics_said, "a", Said(version="1.3"))
    assert json.loads(call("status", "--json"))["clinics"][0]["approved"] is None
