"""The coordinator's audit log on the command line."""

import pytest
from typer.testing import CliRunner

from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import (
    MelfedError,
)
from melfed.server.cli.main import app
from tests.server.cli.commands import call


def test_the_log_is_shown_from_a_time_on(config):
    log = AuditLog(config.audit_log)
    for number in range(60):
        log.record(Event.RUN_STOPPED, run=str(number))
    assert len(call("log").splitlines()) == 50
    assert len(call("log", "--since", "1h").splitlines()) == 60
    assert [line.split("run=")[1] for line in call("log", "--since", "1h", "--last", "2").splitlines()] == ["58", "59"]
    assert call("log", "--since", "2999-01-01") == ""
    assert CliRunner().invoke(app, ["log", "--since", "yesterday"]).exit_code == 2


def test_the_log_is_shown_and_verified(config):
    AuditLog(config.audit_log).record(Event.RUN_STOPPED, run="x", by="me")
    assert "2013 run-stopped run=x by=me" in call("log")
    assert "1 record, chain whole" in call("log", "verify")
    config.audit_log.write_text(config.audit_log.read_text().replace('"me"', '"you"'))
    with pytest.raises(MelfedError, match="keep the file as it is"):
        call("log", "verify")
